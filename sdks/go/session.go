package prism

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	handshakeTime  = 30 * time.Second // a plugin that dials in may have to wait while another serves
	closingTime    = 5 * time.Second
	stopGrace      = 25 * time.Second // that running calls get after SIGTERM
	controlCalls   = 4                // beside max_streams
	maxQueued      = 1 << 20          // bytes not yet written, above which senders wait
	logInterval    = 250 * time.Millisecond
	metricInterval = 10 * time.Second
	maxLogged      = 1000
	maxLogLine     = 8 * 1024
	maxWaiting     = 256 // goroutines that wait for their next call
	drainToken     = 0x64726169
)

// Session is one proxy that the plugin serves, from Initialize to its end.
type Session struct {
	Namespace   string
	Config      json.RawMessage   // the namespace's `config:` block
	Credentials map[string]string // never log them
	State       any               // of the plugin: set it in Start

	plugin   *Plugin
	socket   net.Conn
	tracing  bool
	secrets  atomic.Pointer[strings.Replacer]
	replaced bool   // Shutdown was for good: another process has the place
	goAway   string // the reason of the host's GOAWAY, which is told if no Shutdown follows

	mutex      sync.Mutex // of all that follows
	out        []byte
	changed    *sync.Cond // there is output, it was written, a call has ended, or all is over
	calls      map[uint32]*running
	executing  int
	lastStream uint32
	answerMax  uint32
	hostWindow uint32
	initial    int // 0: no Initialize came; 1: it was begun; 2: calls may come; 3: all is over
	draining   bool
	writing    bool
	closed     bool
	logs       []map[string]any
	dropped    int
	custom     map[string]float64
	drainSeen  chan struct{}
	ending     chan struct{}

	work    chan *running // to workers that wait for one
	waiting atomic.Int64

	total, failed, lastMicros atomic.Int64
}

// running is a call without its CLOSE.
type running struct {
	id       uint32
	method   byte
	context  callContext
	asked    request
	messages *messages
	executes bool
}

func newSession(plugin *Plugin, socket net.Conn) *Session {
	s := &Session{
		plugin: plugin, socket: socket, tracing: os.Getenv("PRISM_TRACE") == "1",
		calls: map[uint32]*running{}, custom: map[string]float64{},
		work: make(chan *running), drainSeen: make(chan struct{}), ending: make(chan struct{}),
	}
	s.changed = sync.NewCond(&s.mutex)
	return s
}

// run serves the host to the end of the connection. An error says why it could not be served.
func (s *Session) run() error {
	written := make(chan struct{})
	go s.write(written)
	go s.report()
	err := s.read()
	if err != nil {
		s.send(frame{typ: tGoAway, aux: s.lastStream, payload: reason(err.Error())})
	}
	s.mutex.Lock()
	for _, call := range s.calls {
		call.context.cancel(context.Canceled)
	}
	if s.goAway != "" && !s.draining {
		fmt.Fprintf(os.Stderr, "the host broke off: %s\n", s.goAway)
	}
	s.closed = true
	s.changed.Broadcast()
	s.mutex.Unlock()
	close(s.ending)
	select {
	case <-written:
	case <-time.After(closingTime):
	}
	s.socket.Close()
	s.awaitCalls(nil, closingTime) // they use what Stop closes, and Start is one of them
	s.mutex.Lock()
	started := s.initial == 2
	s.initial = 3
	s.mutex.Unlock()
	if started {
		s.stop()
	}
	return err
}

func reason(text string) []byte {
	data, _ := json.Marshal(reasonMessage{text})
	return data
}

// stop calls the plugin's Stop.
func (s *Session) stop() {
	if s.plugin.Stop != nil {
		_ = guarded("Stop", func() error { s.plugin.Stop(s); return nil })
	}
}

// -- writing ------------------------------------------------------------------------------------

// send queues a frame; it never waits.
func (s *Session) send(f frame) {
	s.mutex.Lock()
	s.queue(f)
	s.mutex.Unlock()
}

// queue is send for those who hold the mutex.
func (s *Session) queue(f frame) {
	if s.closed {
		return
	}
	if s.tracing {
		trace("sent", f, s)
	}
	wake := len(s.out) == 0
	s.out = appendFrame(s.out, f)
	if wake {
		s.changed.Broadcast()
	}
}

// write is the one writer: all that is queued by then leaves in one system call.
func (s *Session) write(done chan struct{}) {
	defer close(done)
	var batch []byte
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for {
		for len(s.out) == 0 && !s.closed {
			s.changed.Wait()
		}
		if len(s.out) == 0 {
			return
		}
		s.mutex.Unlock()
		runtime.Gosched() // let the calls that are about to end add their answers
		s.mutex.Lock()
		if batch == nil || cap(batch) > maxQueued {
			batch = make([]byte, 0, 64*1024)
		}
		batch, s.out = s.out, batch[:0]
		s.writing = true
		s.mutex.Unlock()
		_, err := s.socket.Write(batch)
		s.mutex.Lock()
		s.writing = false
		if err != nil {
			s.closed = true // the reader sees the end as well
			s.out = nil
		}
		s.changed.Broadcast()
	}
}

// finish ends a call: its one CLOSE, unless another hand has closed it.
func (s *Session) finish(call *running, f frame) {
	f.typ, f.stream = tClose, call.id
	call.context.cancel(context.Canceled)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for len(s.out) > maxQueued && !s.closed { // of a host that does not read
		s.changed.Wait()
	}
	if s.calls[call.id] != call {
		return
	}
	delete(s.calls, call.id)
	if call.executes {
		s.executing--
	}
	if uint32(len(f.payload)) > s.answerMax {
		f.payload = failure(ResourceExhausted, fmt.Sprintf("the answer has %d bytes; the limit is %d "+
			"(plugin.max_frame_bytes)", len(f.payload), s.answerMax), call.messages != nil)
		f.aux, f.flags = uint32(ResourceExhausted), flagTooLarge
		if uint32(len(f.payload)) > s.answerMax {
			f.payload = nil
		}
	}
	s.queue(f)
	if s.draining || s.closed {
		s.changed.Broadcast()
	}
}

func (s *Session) fail(call *running, status Status, sentence string) {
	s.finish(call, frame{aux: uint32(status), payload: failure(status, sentence, call.method == mExecuteStream)})
}

// -- reading ------------------------------------------------------------------------------------

func orDefault(value, usual uint32) uint32 {
	if value == 0 {
		return usual
	}
	return value
}

// read serves until the connection ends: nil, or what the host did wrong.
func (s *Session) read() error {
	p := s.plugin
	maxFrame, window := orDefault(p.MaxFrame, 16<<20), orDefault(p.Window, 256<<10)
	maxStreams := orDefault(p.MaxStreams, 1000)
	instance := make([]byte, 16)
	_, _ = rand.Read(instance)
	hello, _ := json.Marshal(helloMessage{
		Name: p.Name, Version: p.Version, Instance: hex.EncodeToString(instance),
		Codecs: []string{"json"}, MaxFrame: &maxFrame, Window: &window, MaxStreams: &maxStreams,
	})
	s.send(frame{typ: tHello, aux: Protocol, payload: hello})
	input := bufio.NewReaderSize(s.socket, 64*1024)
	var buffer []byte
	_ = s.socket.SetReadDeadline(time.Now().Add(handshakeTime))
	for greeted := false; ; {
		f, room, err := readFrame(input, buffer, maxFrame)
		if buffer = room; cap(buffer) > maxQueued {
			buffer = nil
		}
		if err == nil && s.tracing {
			trace("received", f, s)
		}
		switch {
		case err != nil && !greeted && errors.Is(err, os.ErrDeadlineExceeded):
			return errors.New("the host did not answer HELLO in time")
		case err == io.EOF || errors.Is(err, net.ErrClosed):
			return endedEarly(greeted)
		case err == io.ErrUnexpectedEOF:
			return broken("the stream ended in the middle of a frame")
		case err != nil && strings.HasPrefix(err.Error(), "the host"):
			return err
		case err != nil:
			return endedEarly(greeted) // the connection broke
		case !greeted:
			if err := s.takeHello(f); err != nil {
				return err
			}
			_ = s.socket.SetReadDeadline(time.Time{})
			greeted = true
		default:
			if err := s.take(f, time.Now(), maxStreams, window); err != nil {
				return err
			}
		}
	}
}

func endedEarly(greeted bool) error {
	if greeted {
		return nil
	}
	return errors.New("the host closed the connection instead of saying HELLO")
}

func (s *Session) takeHello(f frame) error {
	var hello helloMessage
	if f.typ == tGoAway {
		var told reasonMessage
		_ = f.message(&told)
		return fmt.Errorf("the host refused this plugin: %s", told.Reason)
	}
	if f.typ != tHello {
		return broken("%s before HELLO", typeNames[f.typ])
	}
	if err := f.message(&hello); err != nil {
		return err
	}
	if f.aux != Protocol || hello.Codec != "json" {
		return broken("it chose protocol %d and codec %q; offered were 1 and json", f.aux, hello.Codec)
	}
	for _, limit := range []*uint32{hello.MaxFrame, hello.Window, hello.MaxStreams} {
		if limit != nil && *limit == 0 {
			return broken("a limit of 0 in HELLO")
		}
	}
	s.mutex.Lock()
	s.answerMax, s.hostWindow = 1<<20, 256<<10
	if hello.MaxFrame != nil {
		s.answerMax = *hello.MaxFrame
	}
	if hello.Window != nil {
		s.hostWindow = *hello.Window
	}
	s.mutex.Unlock()
	return nil
}

// take acts on one frame after the handshake.
func (s *Session) take(f frame, now time.Time, maxStreams, window uint32) error {
	switch f.typ {
	case tHello:
		return broken("a second HELLO")
	case tPing:
		if f.flags&flagAck == 0 {
			s.send(frame{typ: tPing, flags: flagAck, aux: f.aux})
		} else if f.aux == drainToken {
			select {
			case <-s.drainSeen:
			default:
				close(s.drainSeen)
			}
		}
		return nil
	case tGoAway:
		var told reasonMessage
		if err := f.message(&told); err != nil {
			return err
		}
		s.goAway = told.Reason
		return nil
	case tNote:
		return nil
	case tOpen:
		return s.open(f, now, maxStreams, window)
	}
	if f.stream%2 == 0 || f.stream > s.lastStream {
		return broken("%s for call %d, which was never opened", typeNames[f.typ], f.stream)
	}
	s.mutex.Lock()
	call := s.calls[f.stream]
	s.mutex.Unlock()
	if call == nil {
		return nil // it is over: the two crossed
	}
	switch f.typ {
	case tCancel:
		if call.messages != nil {
			call.messages.drop()
		}
		call.context.cancel(context.Canceled)
	case tClose:
		return broken("CLOSE of call %d, which is the plugin's to close", f.stream)
	case tData:
		if call.messages == nil {
			return broken("DATA for a unary call")
		}
		var message request
		if err := f.request(&message); err != nil {
			return err
		}
		return call.messages.deliver(f, &message)
	case tCredit:
		if call.messages != nil {
			return call.messages.credit(f.aux)
		}
	}
	return nil
}

// open begins a call.
func (s *Session) open(f frame, now time.Time, maxStreams, window uint32) error {
	if f.stream%2 == 0 || f.stream <= s.lastStream {
		return broken("OPEN of call %d after %d: ids of the host are odd, and grow", f.stream, s.lastStream)
	}
	if f.method < mInitialize || f.method > mShutdown {
		return broken("method %d", f.method)
	}
	call := &running{id: f.stream, method: f.method}
	call.executes = f.method == mExecute || f.method == mExecuteStream
	var first initializeRequest
	var last shutdownRequest
	var err error
	switch f.method {
	case mInitialize:
		err = f.message(&first)
	case mShutdown:
		err = f.message(&last)
	default:
		err = f.request(&call.asked)
	}
	if err != nil {
		return err
	}
	if f.aux > 0 {
		call.context.deadline = now.Add(time.Duration(f.aux) * time.Millisecond)
	}
	if f.method == mExecuteStream {
		call.messages = newMessages(s, f, window)
	}

	s.mutex.Lock()
	s.lastStream = f.stream
	if len(s.calls) >= int(maxStreams)+controlCalls {
		s.mutex.Unlock()
		return broken("more than %d calls at a time", maxStreams)
	}
	s.calls[f.stream] = call
	full := call.executes && s.executing >= int(maxStreams)
	if call.executes {
		s.executing++
	}
	state, draining := s.initial, s.draining
	if f.method == mInitialize && state == 0 {
		s.initial = 1
	}
	if f.method == mShutdown {
		s.draining = true
	}
	s.mutex.Unlock()

	refuse := func(status Status, sentence string) error {
		s.finish(call, frame{aux: uint32(status), flags: flagNotBegun,
			payload: failure(status, sentence, call.messages != nil)})
		return nil
	}
	switch {
	case f.method == mShutdown:
		go s.shutdown(call, last)
	case f.method == mHealthCheck:
		go s.healthCheck(call, state)
	case draining:
		return refuse(Unavailable, "the plugin is draining")
	case (f.method == mInitialize) != (state == 0), call.executes && state != 2:
		s.fail(call, FailedPrecondition, "Initialize comes once, and first")
	case f.method == mInitialize:
		go s.initialize(call, first)
	case full:
		return refuse(ResourceExhausted, "the plugin has no room for more calls")
	default:
		select {
		case s.work <- call: // a worker waits, whose stack has grown already
		default:
			go s.worker(call)
		}
	}
	return nil
}

// -- the methods --------------------------------------------------------------------------------

// worker runs a call, and then others, while not too many workers wait for one.
func (s *Session) worker(call *running) {
	for {
		s.execute(call)
		if s.waiting.Add(1) > maxWaiting {
			s.waiting.Add(-1)
			return
		}
		select {
		case call = <-s.work:
			s.waiting.Add(-1)
		case <-s.ending:
			return
		}
	}
}

// execute runs one operation, and closes its call whatever becomes of it.
func (s *Session) execute(call *running) {
	begun, ctx, asked := time.Now(), &call.context, &call.asked
	operation, known := s.plugin.Operations[asked.Operation]
	result, err := []byte(nil), error(nil)
	told := &Call{s, asked.Operation, asked}
	ended := false
	defer func() {
		if value := recover(); value != nil || !ended { // runtime.Goexit leaves nothing to recover
			err = &fault{fmt.Sprint("panic: ", value), debug.Stack()}
		}
		s.total.Add(1)
		s.lastMicros.Store(time.Since(begun).Microseconds())
		s.answer(ctx, call, told, result, err)
	}()
	switch {
	case !known:
		err = Errorf(Unimplemented, "no such operation")
	case asked.ParamsRaw != "":
		err = Errorf(InvalidArgument, "this plugin reads JSON, and no MessagePack")
	case (operation.stream != nil) != (call.messages != nil):
		err = Errorf(Unimplemented, "a streaming operation is called by ExecuteStream, any other by Execute")
	case operation.stream != nil:
		err = operation.stream(ctx, &Stream{told, call.messages, ctx}, asked.ParamsJSON)
	default:
		result, err = operation.unary(ctx, told, asked.ParamsJSON)
	}
	ended = true
}

type fault struct {
	text  string
	stack []byte
}

func (f *fault) Error() string { return f.text }

// answer sends the CLOSE of a call that has run.
func (s *Session) answer(ctx context.Context, call *running, told *Call, result []byte, err error) {
	if call.messages != nil && call.messages.overran() {
		s.finish(call, frame{aux: uint32(Cancelled)})
		return
	}
	if err == nil {
		f := frame{}
		if call.messages == nil {
			f.payload = executeResponse(result)
		}
		s.finish(call, f)
		return
	}
	s.failed.Add(1)
	var large *tooLarge
	if errors.As(err, &large) {
		s.finish(call, frame{aux: uint32(ResourceExhausted), flags: flagTooLarge,
			payload: failure(ResourceExhausted, large.Error(), true)})
		return
	}
	status, sentence := statusOf(ctx, err)
	if sentence == "" && status == Internal {
		id := make([]byte, 6)
		_, _ = rand.Read(id)
		sentence = fmt.Sprintf("the plugin failed unexpectedly; its log has the cause under error id %x", id)
		s.Log("ERROR", "error %x: %s of request %s failed: %s", id, told.Operation, told.RequestID(), faultText(err))
	}
	s.fail(call, status, s.redact(sentence))
}

func faultText(err error) string {
	var panicked *fault
	if errors.As(err, &panicked) {
		return panicked.text + "\n" + string(panicked.stack)
	}
	return err.Error()
}

// guarded calls a function of the plugin; a panic becomes its error.
func guarded(what string, function func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("%s panicked: %v", what, value)
			fmt.Fprintf(os.Stderr, "%v\n%s", err, debug.Stack())
		}
	}()
	return function()
}

func (s *Session) initialize(call *running, asked initializeRequest) {
	s.Namespace, s.Credentials = asked.Namespace, asked.Credentials
	if s.Config = json.RawMessage(asked.ConfigJSON); len(s.Config) == 0 {
		s.Config = json.RawMessage("{}")
	}
	s.secrets.Store(secretsOf(asked.Credentials))
	err := error(nil)
	if len(asked.Cache) > 0 && string(asked.Cache) != "null" {
		err = Errorf(InvalidArgument, "this plugin has no cache: remove the `cache:` block")
	} else if s.plugin.Start != nil {
		err = guarded("Start", func() error { return s.plugin.Start(&call.context, s) })
	}
	if err != nil {
		status, sentence := statusOf(&call.context, err)
		if sentence == "" {
			status, sentence = FailedPrecondition, err.Error() // for the operator
		}
		s.fail(call, status, s.redact(sentence))
		return
	}
	names, declared := s.plugin.declarations()
	answer, _ := json.Marshal(map[string]any{
		"success": true, "plugin_version": s.plugin.Version,
		"supported_operations": names, "operations": declared,
	})
	s.mutex.Lock()
	late := s.initial == 3 // Start has outlived the connection
	if !late {
		s.initial = 2
	}
	s.mutex.Unlock()
	if late {
		s.stop()
	}
	s.finish(call, frame{payload: answer})
}

func (s *Session) healthCheck(call *running, state int) {
	health := Health{Status: Unhealthy, Message: "not initialized"}
	if state == 2 {
		health = Health{}
		if s.plugin.Health != nil {
			err := guarded("Health", func() error { health = s.plugin.Health(&call.context, s); return nil })
			if err != nil {
				health = Health{Status: Unhealthy, Message: err.Error()}
			}
		}
	}
	health.Message = s.redact(health.Message)
	answer, _ := json.Marshal(struct {
		Health
		Metrics map[string]any `json:"metrics"`
	}{health, s.metrics()})
	s.finish(call, frame{payload: answer})
}

// awaitCalls waits until none but the given call runs; false where that takes too long.
func (s *Session) awaitCalls(but *running, limit time.Duration) bool {
	late := false
	timer := time.AfterFunc(limit, func() {
		s.mutex.Lock()
		late = true
		s.changed.Broadcast()
		s.mutex.Unlock()
	})
	defer timer.Stop()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for !late {
		left := len(s.calls)
		if but != nil && s.calls[but.id] == but {
			left--
		}
		if left == 0 {
			return true
		}
		s.changed.Wait()
	}
	return false
}

// endCalls lets the running calls end, then cancels them, then closes them in their place.
func (s *Session) endCalls(but *running, limit time.Duration) {
	s.mutex.Lock()
	s.draining = true
	s.mutex.Unlock()
	if s.awaitCalls(but, limit) {
		return
	}
	s.mutex.Lock()
	var left []*running
	for _, call := range s.calls {
		if call != but {
			left = append(left, call)
		}
	}
	s.mutex.Unlock()
	for _, call := range left {
		call.context.cancel(context.Canceled)
	}
	s.awaitCalls(but, time.Second)
	for _, call := range left {
		s.fail(call, Unavailable, "the plugin is stopping")
	}
}

func (s *Session) shutdown(call *running, asked shutdownRequest) {
	s.endCalls(call, time.Duration(asked.TimeoutSeconds*float64(time.Second)))
	s.mutex.Lock()
	started := s.initial == 2
	if s.replaced = asked.Reason == "replaced"; started {
		s.initial = 1
	}
	s.mutex.Unlock()
	if started {
		s.stop()
	}
	s.sendLogs()
	s.finish(call, frame{payload: []byte(`{"success":true}`)})
	s.flush()
	s.socket.Close() // the reader ends
}

// drain is what SIGTERM asks for: no more calls, and the end when those that run are over.
func (s *Session) drain() {
	s.mutex.Lock()
	s.draining = true
	s.queue(frame{typ: tGoAway, aux: s.lastStream, payload: reason("the plugin's process was asked to stop")})
	s.queue(frame{typ: tPing, aux: drainToken}) // its answer comes after the calls that crossed
	s.mutex.Unlock()
	select {
	case <-s.drainSeen:
	case <-s.ending:
	case <-time.After(closingTime):
	}
	s.endCalls(nil, stopGrace)
	s.sendLogs()
	s.flush()
	s.socket.Close()
}

// flush waits until all that is queued was written, for a while.
func (s *Session) flush() {
	late := false
	timer := time.AfterFunc(closingTime, func() {
		s.mutex.Lock()
		late = true
		s.changed.Broadcast()
		s.mutex.Unlock()
	})
	defer timer.Stop()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for (len(s.out) > 0 || s.writing) && !s.closed && !late {
		s.changed.Wait()
	}
}

// -- logs, metrics, health, by themselves ---------------------------------------------------------

// levelOf gives a record's level as the protocol knows it, which a strict proxy insists on.
func levelOf(name string) string {
	switch level := strings.ToUpper(name); level {
	case "DEBUG", "INFO", "WARNING", "ERROR":
		return level
	case "WARN":
		return "WARNING"
	}
	return "INFO"
}

// Log sends a record to the proxy's log; level is DEBUG, INFO, WARNING or ERROR, in any case, and
// INFO where it is none of these.
func (s *Session) Log(level, format string, args ...any) {
	level = levelOf(level)
	text := s.redact(fmt.Sprintf(format, args...))
	if len(text) > maxLogLine {
		text = strings.ToValidUTF8(text[:maxLogLine], "")
	}
	record := map[string]any{"message": text, "level": level, "logger": s.plugin.Name,
		"time": float64(time.Now().UnixNano()) / 1e9}
	s.mutex.Lock()
	if len(s.logs) >= maxLogged {
		s.logs = s.logs[1:]
		s.dropped++
	}
	s.logs = append(s.logs, record)
	s.mutex.Unlock()
	if level == "ERROR" {
		s.sendLogs() // it may be a process's last words
	}
}

func (s *Session) sendLogs() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.answerMax == 0 || len(s.out) > maxQueued {
		return
	}
	if s.dropped > 0 {
		s.logs = append(s.logs, map[string]any{"level": "WARNING", "logger": s.plugin.Name,
			"message": fmt.Sprintf("%d log records were dropped: too many at once", s.dropped)})
		s.dropped = 0
	}
	for len(s.logs) > 0 {
		count := len(s.logs)
		if count > 50 {
			count = 50
		}
		note, _ := json.Marshal(map[string]any{"logs": s.logs[:count]})
		s.logs = s.logs[count:]
		if uint32(len(note)) <= s.answerMax {
			s.queue(frame{typ: tNote, payload: note})
		}
	}
}

// SetMetric sets a metric of the plugin's own: prism_plugin_custom{name="…"}. There is none
// while the value is no number, or infinite, which JSON cannot say.
func (s *Session) SetMetric(name string, value float64) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if math.IsNaN(value) || math.IsInf(value, 0) {
		delete(s.custom, name)
		return
	}
	s.custom[name] = value
}

// Report tells the proxy the plugin's health now, between its checks.
func (s *Session) Report(health Health) {
	health.Message = s.redact(health.Message)
	note, _ := json.Marshal(map[string]any{"health": health})
	s.send(frame{typ: tNote, payload: note})
}

func (s *Session) metrics() map[string]any {
	found := map[string]any{"requests_total": s.total.Load(), "requests_failed": s.failed.Load(),
		"latency_ms": float64(s.lastMicros.Load()) / 1000}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.custom) > 0 {
		custom, _ := json.Marshal(s.custom)
		found["custom_metrics_json"] = string(custom)
	}
	return found
}

// report sends logs, and metrics that have changed, until the connection ends.
func (s *Session) report() {
	logs, metrics := time.NewTicker(logInterval), time.NewTicker(metricInterval)
	defer logs.Stop()
	defer metrics.Stop()
	told := int64(0)
	for {
		select {
		case <-s.ending:
			return
		case <-logs.C:
			s.sendLogs()
		case <-metrics.C:
			if now := s.total.Load(); now != told {
				told = now
				note, _ := json.Marshal(map[string]any{"metrics": s.metrics()})
				s.send(frame{typ: tNote, payload: note})
			}
		}
	}
}

// secretsOf blanks the values of credentials; names of users are no secrets.
func secretsOf(credentials map[string]string) *strings.Replacer {
	var forms, pairs []string
	for name, value := range credentials {
		isName := name == "user" || name == "login" || strings.HasSuffix(name, "username") || strings.HasSuffix(name, "client_id")
		if value == "" || isName {
			continue
		}
		quoted := appendQuoted(nil, []byte(value))
		twice := appendQuoted(nil, quoted[1:len(quoted)-1])
		forms = append(forms, string(twice[1:len(twice)-1]), string(quoted[1:len(quoted)-1]), value)
	}
	sort.Slice(forms, func(a, b int) bool { return len(forms[a]) > len(forms[b]) }) // one may begin another
	for _, form := range forms {
		pairs = append(pairs, form, "(hidden)")
	}
	return strings.NewReplacer(pairs...)
}

func (s *Session) redact(text string) string {
	if secrets := s.secrets.Load(); secrets != nil {
		return secrets.Replace(text)
	}
	return text
}
