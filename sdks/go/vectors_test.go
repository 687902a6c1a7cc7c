package prism

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// The golden vectors of schemas/vectors: read whole and byte by byte, and by a session.

type step struct {
	Sender, Hex string
	Events      []map[string]any
}

type vector struct {
	Name, Codec, Sender, To, State, Hex string
	Before, Steps                       []step
	Event                               map[string]any
	Events                              []map[string]any
}

func vectors(t *testing.T, name string) []vector {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "schemas", "vectors", name+".json"))
	if err != nil {
		t.Skip("the vectors are in Prism's repository alone")
	}
	var file struct{ Cases []vector }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Cases
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var statusNames = []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
	"ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

func statusName(status uint32) string {
	if int(status) < len(statusNames) {
		return statusNames[status]
	}
	return "UNKNOWN"
}

// event says of a frame what the vectors say.
func event(t *testing.T, f frame) map[string]any {
	t.Helper()
	var message map[string]any
	if err := f.message(&message); err != nil {
		t.Fatal(err)
	}
	found := map[string]any{"event": map[byte]string{tHello: "Hello", tOpen: "Open", tData: "Data", tClose: "Close",
		tCancel: "Cancel", tCredit: "Credit", tPing: "Ping", tGoAway: "GoAway", tNote: "Note"}[f.typ]}
	with := func(key string, value any) { found[key] = value }
	payload := func() {
		if message == nil {
			message = map[string]any{}
		}
		with("message", message)
	}
	switch f.typ {
	case tOpen:
		with("stream", float64(f.stream))
		with("method", []string{"", "INITIALIZE", "HEALTH_CHECK", "EXECUTE", "EXECUTE_STREAM", "SHUTDOWN"}[f.method])
		with("deadline_ms", float64(f.aux))
		with("end", f.method != mExecuteStream || f.flags&flagEnd != 0)
		payload()
	case tData:
		with("stream", float64(f.stream))
		with("end", f.flags&flagEnd != 0)
		payload()
	case tClose:
		with("stream", float64(f.stream))
		with("status", statusName(f.aux))
		with("not_started", f.flags&flagNotBegun != 0)
		if len(f.payload) == 0 {
			with("message", nil)
		} else {
			payload()
		}
	case tCancel:
		with("stream", float64(f.stream))
		with("status", statusName(f.aux))
	case tCredit:
		with("stream", float64(f.stream))
		with("size", float64(f.aux))
	case tPing:
		with("token", float64(f.aux))
		with("ack", f.flags&flagAck != 0)
	case tHello, tGoAway, tNote:
		for key, value := range message {
			with(key, value)
		}
	}
	return found
}

// same compares what is told of one frame; defaults that are written out, or not, do not matter.
func same(told, wanted map[string]any) bool {
	for key, value := range wanted {
		if key == "size" && wanted["event"] == "Data" || key == "too_large" || key == "last_stream" || key == "protocol_max" {
			continue // of the header, and of what was read before
		}
		found, there := told[key]
		if !there && (value == nil || reflect.ValueOf(value).IsZero() || isEmpty(value)) {
			continue
		}
		if one, ok := value.(map[string]any); ok {
			other, ok := found.(map[string]any)
			if !ok || !same(other, one) {
				return false
			}
		} else if !reflect.DeepEqual(found, value) {
			return false
		}
	}
	return true
}

func isEmpty(value any) bool {
	of := reflect.ValueOf(value)
	return (of.Kind() == reflect.Slice || of.Kind() == reflect.Map) && of.Len() == 0
}

func readAll(t *testing.T, name string, from io.Reader) []map[string]any {
	t.Helper()
	var found []map[string]any
	for {
		f, _, err := readFrame(from, nil, 1<<20)
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		found = append(found, event(t, f))
	}
}

func expectEvents(t *testing.T, name string, data []byte, wanted []map[string]any) {
	t.Helper()
	for _, from := range []io.Reader{bytes.NewReader(data), iotest.OneByteReader(bytes.NewReader(data))} {
		found := readAll(t, name, from)
		if len(found) != len(wanted) {
			t.Fatalf("%s: %d frames, not %d", name, len(found), len(wanted))
		}
		for i := range wanted {
			if !same(found[i], wanted[i]) {
				t.Errorf("%s: read %v\nwanted %v", name, found[i], wanted[i])
			}
		}
	}
}

func TestFramesAreRead(t *testing.T) {
	for _, one := range vectors(t, "frames-json") {
		expectEvents(t, one.Name, unhex(t, one.Hex), []map[string]any{one.Event})
	}
	for _, one := range vectors(t, "conversations") {
		for _, step := range one.Steps {
			if one.Codec == "json" {
				expectEvents(t, one.Name, unhex(t, step.Hex), step.Events)
			}
		}
	}
}

func TestFramesAreWritten(t *testing.T) {
	for _, one := range vectors(t, "frames-json") {
		data := unhex(t, one.Hex)
		f, _, err := readFrame(bytes.NewReader(data), nil, 1<<20)
		if err != nil || !bytes.Equal(appendFrame(nil, f), data) {
			t.Errorf("%s: written as %x", one.Name, appendFrame(nil, f))
		}
	}
}

// host is the other end of a session.
type host struct {
	t       *testing.T
	socket  net.Conn
	input   *bufio.Reader
	session *Session
	ended   chan error
}

func newHost(t *testing.T, plugin Plugin) *host {
	ours, theirs := net.Pipe()
	h := &host{t: t, socket: ours, input: bufio.NewReader(ours), session: newSession(&plugin, theirs), ended: make(chan error, 1)}
	go func() { h.ended <- h.session.run() }()
	t.Cleanup(func() { ours.Close() })
	_ = ours.SetDeadline(time.Now().Add(time.Minute))
	if f := h.read(); f.typ != tHello || f.aux != Protocol {
		t.Fatalf("the plugin said %v first", f)
	}
	return h
}

func (h *host) read() frame {
	h.t.Helper()
	f, _, err := readFrame(h.input, nil, 1<<24)
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// next is the next frame that is no NOTE.
func (h *host) next() frame {
	h.t.Helper()
	for {
		if f := h.read(); f.typ != tNote {
			return f
		}
	}
}

func (h *host) send(frames ...frame) {
	h.t.Helper()
	var out []byte
	for _, f := range frames {
		out = appendFrame(out, f)
	}
	if _, err := h.socket.Write(out); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) greet(limits string) {
	h.send(frame{typ: tHello, aux: 1, payload: []byte(`{"name":"prism","codec":"json"` + limits + `}`)})
}

func (h *host) initialize(config string) frame {
	h.send(frame{typ: tOpen, stream: 1, method: mInitialize, payload: []byte(config)})
	return h.next()
}

// begun is a session that has been initialized.
func begun(t *testing.T, plugin Plugin, limits string) *host {
	h := newHost(t, plugin)
	h.greet(limits)
	if f := h.initialize(`{"namespace":"n","credentials":{"password":"s3cret","username":"ada"}}`); f.aux != 0 {
		t.Fatalf("Initialize: %s", f.payload)
	}
	return h
}

func until(ctx context.Context, _ *Call, _ json.RawMessage) (struct{}, error) {
	<-ctx.Done()
	return struct{}{}, ctx.Err()
}

func drainAll(ctx context.Context, stream *Stream, _ json.RawMessage) error {
	<-ctx.Done()
	return ctx.Err()
}

// feed gives a session what a host says, and the end of the stream: what the plugin says, and how it ends.
func feed(t *testing.T, plugin Plugin, sent []byte, size int) ([]frame, error) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	session := newSession(&plugin, theirs)
	session.initial = 2
	ended, told := make(chan error, 1), make(chan []frame, 1)
	go func() { ended <- session.run() }()
	go func() {
		var found []frame
		for {
			f, _, err := readFrame(ours, nil, 1<<24)
			if err != nil {
				told <- found
				return
			}
			found = append(found, f)
		}
	}()
	for len(sent) > 0 {
		if size > len(sent) {
			size = len(sent)
		}
		if _, err := ours.Write(sent[:size]); err != nil {
			break // it has refused what came before
		}
		sent = sent[size:]
	}
	_ = ours.SetWriteDeadline(time.Now().Add(time.Minute))
	_, _ = ours.Write(appendFrame(nil, frame{typ: tPing, aux: 4711})) // read when all before it was
	ours.Close()
	return <-told, <-ended
}

func TestASessionReadsTheVectors(t *testing.T) {
	hello := appendFrame(nil, frame{typ: tHello, aux: 1, payload: []byte(`{"codec":"json"}`)})
	unary := Operations{"": Unary(until, Declaration{}), "get": Unary(until, Declaration{}), "watch": Streaming(drainAll, Declaration{})}
	stream := Operations{"": Streaming(drainAll, Declaration{})}
	try := func(name string, sent []byte, breaks bool, operations Operations) {
		for _, size := range []int{1 << 20, 1} {
			plugin := Plugin{Name: "x", Version: "1", Operations: operations, MaxFrame: 1 << 20}
			_, err := feed(t, plugin, sent, size)
			if told := err != nil && strings.Contains(err.Error(), "broke the protocol"); told != breaks {
				t.Errorf("%s, %d bytes at a time: ended with %v", name, size, err)
			}
		}
	}
	for _, one := range vectors(t, "errors") {
		if one.To != "plugin" || one.Codec != "json" || strings.Contains(one.Name, "middle of a frame") {
			continue
		}
		sent, operations := unhex(t, one.Hex), unary
		if one.State == "ready" {
			sent = append(append([]byte(nil), hello...), sent...)
		}
		if one.Name == "data after END" {
			operations = stream
		}
		try(one.Name, sent, true, operations)
	}
	for _, one := range vectors(t, "tolerance") {
		if one.To == "plugin" {
			try(one.Name, append(append([]byte(nil), hello...), unhex(t, one.Hex)...), false, unary)
			if one.Name != "cancel twice" { // the second of which is no event
				expectEvents(t, one.Name, unhex(t, one.Hex), one.Events)
			}
		}
	}
	for _, one := range vectors(t, "frames-json") {
		if one.Sender == "host" {
			sent := append([]byte(nil), hello...)
			for _, before := range one.Before {
				sent = append(sent, unhex(t, before.Hex)...)
			}
			try(one.Name, append(sent, unhex(t, one.Hex)...), false, unary)
		}
	}
}
