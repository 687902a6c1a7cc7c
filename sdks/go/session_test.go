package prism

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
)

func execute(id uint32, operation, params string) frame {
	payload, _ := json.Marshal(map[string]string{"operation": operation, "params_json": params})
	return frame{typ: tOpen, stream: id, method: mExecute, flags: flagEnd, payload: payload}
}

func openStream(id uint32, operation, params string, flags byte) frame {
	f := execute(id, operation, params)
	f.method, f.flags = mExecuteStream, flags
	return f
}

func data(id uint32, params string, flags byte) frame {
	payload, _ := json.Marshal(map[string]string{"params_json": params})
	return frame{typ: tData, stream: id, flags: flags, payload: payload}
}

func (h *host) expectClose(id uint32, status Status, words string) frame {
	h.t.Helper()
	f := h.next()
	if f.typ != tClose || f.stream != id || Status(f.aux) != status || !strings.Contains(string(f.payload), words) {
		h.t.Fatalf("CLOSE %d with status %d and %q was awaited, and came: %s %d status %d %s",
			id, status, words, typeNames[f.typ], f.stream, f.aux, f.payload)
	}
	return f
}

type named struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

func handlers() Operations {
	return Operations{
		"greet": Unary(func(_ context.Context, _ *Call, in named) (any, error) {
			return map[string]string{"text": "<" + in.Name + ">"}, nil
		}, Declaration{}),
		"crash": Unary(func(_ context.Context, c *Call, _ named) (any, error) { panic("with " + c.Credentials["password"]) }, Declaration{}),
		"exit":  Unary(func(context.Context, *Call, named) (any, error) { runtime.Goexit(); return nil, nil }, Declaration{}),
		"wrong": Unary(func(context.Context, *Call, named) (any, error) { return func() {}, nil }, Declaration{}),
		"raw": Unary(func(context.Context, *Call, named) (json.RawMessage, error) {
			return json.RawMessage("{oops"), nil
		}, Declaration{}),
		"leak": Unary(func(_ context.Context, c *Call, _ named) (any, error) {
			return nil, Errorf(NotFound, "no %s here", c.Credentials["password"])
		}, Declaration{}),
		"fault": Unary(func(context.Context, *Call, named) (any, error) { return nil, errors.New("internals") }, Declaration{}),
		"wait":  Unary(until, Declaration{}),
		"stuck": Unary(func(context.Context, *Call, named) (any, error) { select {} }, Declaration{}),
		"big": Unary(func(_ context.Context, _ *Call, in named) (any, error) {
			return strings.Repeat("x", in.Size), nil
		}, Declaration{}),
		"numbers": Streaming(func(_ context.Context, s *Stream, in named) error {
			for i := 0; i < in.Size; i++ {
				if err := s.SendAt(fmt.Sprint(i), i); err != nil {
					return err
				}
			}
			return nil
		}, Declaration{}),
		"large": Streaming(func(_ context.Context, s *Stream, in named) error {
			return s.Send(strings.Repeat("x", in.Size))
		}, Declaration{}),
		"count": Streaming(func(_ context.Context, s *Stream, _ named) error {
			for n := 0; ; n++ {
				var next named
				if err := s.Receive(&next); err == io.EOF {
					return s.Send(n)
				} else if err != nil {
					return err
				}
			}
		}, Declaration{}),
		"deaf": Streaming(drainAll, Declaration{}),
	}
}

func TestEveryOutcomeOfACall(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers()}, `,"max_frame":2000`)
	id := uint32(1)
	for _, one := range []struct {
		operation, params string
		status            Status
		words             string
	}{
		{"greet", `{"name":"Ada"}`, OK, `{"success":true,"result_json":"{\"text\":\"<Ada>\"}"}`},
		{"greet", "", OK, `<>`},
		{"greet", `{"name":7}`, InvalidArgument, "expected string, found number - at `$.name`"},
		{"greet", `{"nam":"x"}`, InvalidArgument, `unknown field`},
		{"greet", `[]`, InvalidArgument, "one JSON object"},
		{"greet", `{"name":"x"} {}`, InvalidArgument, "one JSON object"},
		{"nothing", `{}`, Unimplemented, "no such operation"},
		{"numbers", `{}`, Unimplemented, "ExecuteStream"},
		{"crash", `{}`, Internal, "under error id "},
		{"exit", `{}`, Internal, "under error id "},
		{"wrong", `{}`, Internal, "under error id "},
		{"raw", `{}`, Internal, "under error id "},
		{"fault", `{}`, Internal, "under error id "},
		{"leak", `{}`, NotFound, "no (hidden) here"},
		{"big", `{"size":5000}`, ResourceExhausted, "the limit is 2000"},
	} {
		id += 2
		h.send(execute(id, one.operation, one.params))
		f := h.expectClose(id, one.status, one.words)
		if tooLarge := f.flags&flagTooLarge != 0; tooLarge != (one.operation == "big") {
			t.Errorf("%s: flags %d", one.operation, f.flags)
		}
	}
	h.send(openStream(id+2, "greet", "{}", flagEnd))
	h.expectClose(id+2, Unimplemented, `"is_final":true`)
	h.send(openStream(id+4, "large", `{"size":5000}`, flagEnd))
	if f := h.expectClose(id+4, ResourceExhausted, "the limit is 2000"); f.flags != flagTooLarge {
		t.Error(f.flags)
	}
}

func TestFaultsAreLoggedWithoutSecrets(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers()}, "")
	h.send(execute(3, "crash", "{}"))
	note := h.read()
	if text := string(note.payload); note.typ != tNote || !strings.Contains(text, "panic: with (hidden)") ||
		!strings.Contains(text, "session_test.go") || !strings.Contains(text, `"ERROR"`) {
		t.Errorf("logged %s", note.payload)
	}
	h.expectClose(3, Internal, "")
	h.session.Log("INFO", "of ada: s3cret \"%s\"", "s3cret")
	if note := h.read(); !strings.Contains(string(note.payload), `of ada: (hidden) \"(hidden)\"`) {
		t.Errorf("logged %s", note.payload)
	}
}

func TestASecretThatBeginsAnotherHidesNoPartOfIt(t *testing.T) {
	for i := 0; i < 50; i++ { // a map has no order
		secrets := secretsOf(map[string]string{"a": "hunter", "b": "hunter\"2", "c": "hunter\"2-and-more"})
		text := secrets.Replace("hunter, hunter\"2, hunter\"2-and-more, hunter\\\"2-and-more")
		if text != "(hidden), (hidden), (hidden), (hidden)" {
			t.Fatal(text)
		}
	}
}

func TestLevelsOfRecords(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers()}, "")
	for name, level := range map[string]string{"warning": "WARNING", "WARN": "WARNING", "Error": "ERROR", "loud": "INFO"} {
		h.session.Log(name, "a record")
		h.session.sendLogs()
		if note := h.read(); !strings.Contains(string(note.payload), `"level":"`+level+`"`) {
			t.Errorf("%s: %s", name, note.payload)
		}
	}
}

func TestAMetricThatIsNoNumberSpoilsNoOther(t *testing.T) {
	s := newSession(&Plugin{Name: "p"}, nil)
	s.SetMetric("a", 2.5)
	s.SetMetric("b", 1)
	s.SetMetric("b", math.NaN())
	s.SetMetric("c", math.Inf(1))
	if told := s.metrics()["custom_metrics_json"]; told != `{"a":2.5}` {
		t.Fatal(told)
	}
}

func TestCancelAndDeadline(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers()}, "")
	late := execute(5, "wait", "{}")
	late.aux = 20
	h.send(execute(3, "wait", "{}"), late)
	h.expectClose(5, DeadlineExceeded, "time")
	h.send(frame{typ: tCancel, stream: 3, aux: 1})
	h.expectClose(3, Cancelled, "")
	h.send(frame{typ: tCancel, stream: 3, aux: 1}, frame{typ: tPing, aux: 7}) // the two crossed
	if f := h.next(); f.typ != tPing || f.flags != flagAck || f.aux != 7 {
		t.Fatal(f)
	}
}

func TestCreditOfThePlugin(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers()}, `,"window":100`)
	h.send(openStream(3, "numbers", `{"size":6}`, flagEnd))
	spent := 0
	for n := 0; n < 6; n++ {
		if spent >= 100 {
			h.send(frame{typ: tPing}, frame{typ: tPing}) // it waits: nothing but these is answered
			for i := 0; i < 2; i++ {
				if f := h.next(); f.typ != tPing {
					t.Fatalf("sent without credit: %s", f.payload)
				}
			}
			h.send(frame{typ: tCredit, stream: 3, aux: uint32(spent)})
			spent = 0
		}
		f := h.next()
		spent += headerSize + len(f.payload)
		if f.typ != tData || string(f.payload) != fmt.Sprintf(`{"result_json":"%d","position":"%d"}`, n, n) {
			t.Fatalf("message %d: %s", n, f.payload)
		}
	}
	h.expectClose(3, OK, "")
}

func TestCreditOfTheHost(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers(), Window: 200}, "")
	h.send(openStream(3, "count", "{}", 0))
	given, spent, count := 0, 0, 0
	for ; count <= 50; count++ {
		message := data(3, `{"name":"x"}`, 0)
		if count == 50 {
			message = frame{typ: tData, stream: 3, flags: flagEnd, payload: []byte("{}")} // no message
		}
		for spent-given >= 200 {
			f := h.next()
			if f.typ != tCredit || f.stream != 3 {
				t.Fatal(f)
			}
			given += int(f.aux)
		}
		h.send(message)
		spent += headerSize + len(message.payload)
	}
	f := h.next()
	for f.typ == tCredit {
		f = h.next()
	}
	if string(f.payload) != `{"result_json":"50"}` {
		t.Fatalf("%s %d status %d: %s", typeNames[f.typ], f.stream, f.aux, f.payload)
	}
	h.expectClose(3, OK, "")
	h.send(openStream(5, "deaf", "{}", 0))
	for i := 0; i < 10; i++ { // beyond the window
		h.send(data(5, `{"name":"xxxxxxxxxxxxxxxx"}`, 0))
	}
	h.expectClose(5, Cancelled, "")
}

func TestMoreCallsThanAnnounced(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers(), MaxStreams: 2}, "")
	h.send(execute(3, "wait", "{}"), execute(5, "wait", "{}"), execute(7, "wait", "{}"))
	if f := h.expectClose(7, ResourceExhausted, "no room"); f.flags != flagNotBegun {
		t.Error(f.flags)
	}
	h.send(frame{typ: tOpen, stream: 9, method: mHealthCheck})
	h.expectClose(9, OK, `"status":0`)
}

func TestTheOrderOfMethods(t *testing.T) {
	h := newHost(t, Plugin{Name: "p", Version: "1", Operations: handlers()})
	h.greet("")
	h.send(execute(1, "greet", "{}"))
	h.expectClose(1, FailedPrecondition, "Initialize")
	h.send(frame{typ: tOpen, stream: 3, method: mHealthCheck})
	h.expectClose(3, OK, `"status":2`)
	h.send(frame{typ: tOpen, stream: 5, method: mInitialize})
	h.expectClose(5, OK, `"supported_operations":["big","count","crash"`)
	h.send(frame{typ: tOpen, stream: 7, method: mInitialize})
	h.expectClose(7, FailedPrecondition, "once")
}

func TestStartStopAndHealth(t *testing.T) {
	stopped := make(chan any, 1)
	plugin := Plugin{Name: "p", Version: "1", Operations: handlers(),
		Start: func(_ context.Context, s *Session) error {
			s.State = s.Namespace + string(s.Config)
			return nil
		},
		Stop:   func(s *Session) { stopped <- s.State },
		Health: func(context.Context, *Session) Health { panic("ill") },
	}
	h := newHost(t, plugin)
	h.greet("")
	h.initialize(`{"namespace":"n","config_json":"{\"a\":1}"}`)
	h.send(frame{typ: tOpen, stream: 3, method: mHealthCheck})
	h.expectClose(3, OK, `"status":2,"message":"Health panicked: ill"`)
	h.send(frame{typ: tOpen, stream: 5, method: mShutdown, payload: []byte(`{"timeout_seconds":1,"reason":"replaced"}`)})
	h.expectClose(5, OK, `{"success":true}`)
	if err := <-h.ended; err != nil || !h.session.replaced {
		t.Fatal(err, h.session.replaced)
	}
	if state := <-stopped; state != `n{"a":1}` {
		t.Fatal(state)
	}

	plugin.Start = func(context.Context, *Session) error { return errors.New("no database at s3cret") }
	h = newHost(t, plugin)
	h.greet("")
	f := h.initialize(`{"credentials":{"password":"s3cret"}}`)
	if Status(f.aux) != FailedPrecondition || !strings.Contains(string(f.payload), "no database at (hidden)") {
		t.Fatalf("%d %s", f.aux, f.payload)
	}
	h = newHost(t, Plugin{Name: "p", Version: "1", Operations: handlers()})
	h.greet("")
	if f = h.initialize(`{"cache":{"operations":["get"]}}`); !strings.Contains(string(f.payload), "no cache") {
		t.Fatalf("%s", f.payload)
	}
}

func TestShutdownWithACallThatNeverEnds(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers()}, "")
	h.send(execute(3, "stuck", "{}"), execute(5, "wait", "{}"))
	h.send(frame{typ: tOpen, stream: 7, method: mShutdown, payload: []byte(`{"timeout_seconds":0}`)}, execute(9, "greet", "{}"))
	if f := h.expectClose(9, Unavailable, "draining"); f.flags != flagNotBegun {
		t.Error(f.flags)
	}
	for ended := 0; ended < 2; ended++ { // the one by its handler, if that is quick enough, the other in its place
		if f := h.next(); f.typ != tClose || f.stream == 3 && Status(f.aux) != Unavailable {
			t.Fatal(f)
		}
	}
	h.expectClose(7, OK, "success")
	if err := <-h.ended; err != nil {
		t.Fatal(err)
	}
}

func TestDrain(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers()}, "")
	h.send(execute(3, "wait", "{}"))
	h.send(frame{typ: tPing, aux: 1})
	h.next()
	go h.session.drain()
	if f := h.next(); f.typ != tGoAway || f.aux != 3 {
		t.Fatal(f)
	}
	ping := h.next()
	h.send(execute(5, "greet", "{}"), frame{typ: tPing, flags: flagAck, aux: ping.aux}) // it crossed
	if f := h.expectClose(5, Unavailable, ""); f.flags != flagNotBegun {
		t.Error(f.flags)
	}
	h.send(frame{typ: tCancel, stream: 3})
	h.expectClose(3, Cancelled, "")
	if err := <-h.ended; err != nil {
		t.Fatal(err)
	}
}

func TestTheEndOfTheStreamCancels(t *testing.T) {
	ended := make(chan error, 1)
	stopped := make(chan bool, 1)
	h := begun(t, Plugin{Name: "p", Version: "1", Stop: func(*Session) { stopped <- true }, Operations: Operations{
		"wait": Unary(func(ctx context.Context, _ *Call, _ named) (any, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}, Declaration{}),
	}}, "")
	h.send(execute(3, "wait", "{}"))
	h.send(frame{typ: tPing})
	h.next()
	h.socket.Close()
	if err := <-ended; err != context.Canceled {
		t.Fatal(err)
	}
	<-stopped
	if err := <-h.ended; err != nil {
		t.Fatal(err)
	}
}

func TestStopComesAfterWhatRuns(t *testing.T) {
	events := make(chan string, 3)
	running := make(chan bool)
	plugin := Plugin{Name: "p", Version: "1", Stop: func(*Session) { events <- "stop" }, Operations: Operations{
		"wait": Unary(func(ctx context.Context, _ *Call, _ named) (any, error) {
			close(running)
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond)
			events <- "call"
			return nil, nil
		}, Declaration{}),
	}}
	h := begun(t, plugin, "")
	h.send(execute(3, "wait", "{}"))
	<-running
	h.socket.Close()
	if first, second := <-events, <-events; first != "call" || second != "stop" {
		t.Fatal(first, second)
	}

	running = make(chan bool)
	plugin.Start = func(ctx context.Context, _ *Session) error {
		close(running)
		<-ctx.Done()
		events <- "start"
		return nil
	}
	h = newHost(t, plugin)
	h.greet("")
	h.send(frame{typ: tOpen, stream: 1, method: mInitialize, payload: []byte("{}")})
	<-running
	h.socket.Close()
	<-h.ended
	close(events)
	if first, second := <-events, <-events; first != "start" || second != "stop" {
		t.Fatal(first, second)
	}
}

func TestRefusals(t *testing.T) {
	h := newHost(t, Plugin{Name: "p", Version: "1", Operations: handlers()})
	h.send(frame{typ: tGoAway, payload: []byte(`{"reason":"no codec in common"}`)})
	_, _ = io.Copy(io.Discard, h.input)
	if err := <-h.ended; err == nil || !strings.Contains(err.Error(), "no codec in common") {
		t.Fatal(err)
	}
}

func TestPluginsThatAreNone(t *testing.T) {
	good := Unary(until, Declaration{})
	for words, plugin := range map[string]Plugin{
		"no name":              {Operations: Operations{"get": good}},
		"no operations":        {Name: "p"},
		`such as "get_key"`:    {Name: "p", Operations: Operations{"Get-Key": good}},
		"has no handler":       {Name: "p", Operations: Operations{"get": {}}},
		"schema is no JSON":    {Name: "p", Operations: Operations{"get": Unary(until, Declaration{ParamsSchema: "[]"})}},
		`no client could call`: {Name: "p", Operations: Operations{strings.Repeat("x", 65): good}},
	} {
		if err := plugin.check(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v", words, err)
		}
	}
}

func TestLogsAreBounded(t *testing.T) {
	h := begun(t, Plugin{Name: "p", Version: "1", Operations: handlers()}, "")
	for i := 0; i < maxLogged+20; i++ {
		h.session.mutex.Lock()
		h.session.logs = append(h.session.logs, map[string]any{}) // without a tick in between
		if len(h.session.logs) > maxLogged {
			h.session.logs = h.session.logs[1:]
			h.session.dropped++
		}
		h.session.mutex.Unlock()
	}
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		if f := h.read(); strings.Contains(string(f.payload), "log records were dropped") {
			return
		}
	}
	t.Fatal("nobody was told of those that were dropped")
}

func TestRequestsAreReadTheSameInEitherWay(t *testing.T) {
	for _, text := range []string{
		`{"operation":"get","params_json":"{\"key\":\"a\\\\b\\/\\n\"}","metadata":{"a":"b","c":""}}`,
		`{"operation":"get"}`, `{"params_json":""}`, `{ "operation" : "get" }`, `{}`, `{"operation":"g\u0065t"}`,
		`{"params_json":"\u00fc\ud83d\ude00"}`, `{"metadata":{}}`, `{"metadata":{"a\n":"\u0000"},"operation":"x"}`,
		`{"operation":"get","unknown":[1,{"a":null}]}`, `{"operation":"a","operation":"b"}`, `{"params_raw":"gA=="}`,
		`{"operation":7}`, `{"operation":"get",}`, `{"operation":"get"`, `{"operation":"get"}}`, `{"operation""get"}`,
		`{"params_json":"a` + "\n" + `"}`, `{"metadata":{"a":7}}`, `{"metadata":[]}`, `{"params_json":"\`, `{"params_json":"\x"}`, `[]`, `"`, `{"`,
	} {
		var plain struct {
			Operation  string            `json:"operation"`
			ParamsJSON string            `json:"params_json"`
			ParamsRaw  string            `json:"params_raw"`
			Metadata   map[string]string `json:"metadata"`
		}
		f := frame{payload: []byte(text)}
		wanted := f.message(&plain)
		var found request
		err := f.request(&found)
		if (err == nil) != (wanted == nil) {
			t.Errorf("%s: %v, not %v", text, err, wanted)
		}
		if err == nil && (found.Operation != plain.Operation || string(found.ParamsJSON) != plain.ParamsJSON ||
			found.ParamsRaw != plain.ParamsRaw || fmt.Sprint(found.metadata()) != fmt.Sprint(plain.Metadata)) {
			t.Errorf("%s: %+v, not %+v", text, found.Operation, plain)
		}
	}
}

func TestTheContextOfACall(t *testing.T) {
	var c callContext
	child, stop := context.WithCancel(&c)
	defer stop()
	if _, there := c.Deadline(); there || c.Err() != nil || child.Err() != nil {
		t.Fatal("it has ended, or ends")
	}
	c.cancel(context.Canceled)
	c.cancel(context.DeadlineExceeded)
	<-c.Done()
	<-child.Done()
	if c.Err() != context.Canceled {
		t.Fatal(c.Err())
	}
	late := callContext{deadline: time.Now().Add(20 * time.Millisecond)}
	<-late.Done()
	over := callContext{deadline: time.Now()}
	if late.Err() != context.DeadlineExceeded || over.Err() != context.DeadlineExceeded {
		t.Fatal(late.Err(), over.Err())
	}
	<-over.Done()
}
