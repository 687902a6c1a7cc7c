// Package prism serves plugins of the Prism data-access proxy.
//
// A plugin is a set of operations. Serve is the whole main program: it meets the proxy, runs each
// call in a goroutine of its own, answers it exactly once, and ends when it should.
package prism

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"sort"
	"strings"
)

// Protocol is the version of the frame protocol that this kit speaks.
const Protocol = 1

// Version is that of the kit, and of the proxy that it came with.
const Version = "0.1.0"

// Status is a gRPC status: how a call ended.
type Status uint32

// The statuses, and what each is for: docs/protocol.md, Errors.
const (
	OK Status = iota
	Cancelled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
)

// Error is what a handler returns for the client to read: no secrets, no internals.
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error. Any other error of a handler is a fault: the client reads INTERNAL and
// an id, under which the log has its text.
func Errorf(status Status, format string, args ...any) error {
	return &Error{status, fmt.Sprintf(format, args...)}
}

// Access is the permission that callers need, where the proxy knows them.
type Access int

// What is not declared counts as Write.
const (
	Read Access = iota + 1
	Write
	Admin
)

// Declaration is what may be relied on in an operation, and what clients are told of it.
type Declaration struct {
	Idempotent   bool // to call it twice equals calling it once: the proxy may repeat it
	Access       Access
	Cost         int    // of a rate limit; 0 stands for 1
	Description  string // for people
	ParamsSchema string // JSON Schemas (2020-12)
	ResultSchema string
}

// Operation is made by Unary or Streaming.
type Operation struct {
	Declaration
	unary  func(context.Context, *Call, []byte) ([]byte, error)
	stream func(context.Context, *Stream, []byte) error
}

// Operations by their names: 1 to 64 lower-case letters, digits and underscores, a letter first.
type Operations map[string]Operation

// Unary is an operation with one answer. The parameters, one JSON object, are decoded to In, in
// which unknown fields are refused; json.RawMessage takes them as they are.
// The context ends at the deadline, and when the caller no longer waits.
func Unary[In, Out any](
	handler func(context.Context, *Call, In) (Out, error), declared Declaration,
) Operation {
	run := func(ctx context.Context, call *Call, params []byte) ([]byte, error) {
		var in In
		if err := decode(params, &in); err != nil {
			return nil, err
		}
		out, err := handler(ctx, call, in)
		if err != nil {
			return nil, err
		}
		return encode(out)
	}
	return Operation{Declaration: declared, unary: run}
}

// Streaming is an operation that sends any number of answers, and may read further messages.
func Streaming[In any](
	handler func(context.Context, *Stream, In) error, declared Declaration,
) Operation {
	run := func(ctx context.Context, stream *Stream, params []byte) error {
		var in In
		if err := decode(params, &in); err != nil {
			return err
		}
		return handler(ctx, stream, in)
	}
	return Operation{Declaration: declared, stream: run}
}

// Call is what a handler knows of a call beside its parameters.
type Call struct {
	*Session
	Operation string
	asked     *request
}

// Metadata of the call: what the proxy sets, text to text.
func (c *Call) Metadata() map[string]string {
	if c.asked == nil {
		return nil
	}
	return c.asked.metadata()
}

// Principal is who calls, as the proxy authenticated them; "" for nobody.
func (c *Call) Principal() string { return c.Metadata()["prism-principal"] }

// RequestID is for logs.
func (c *Call) RequestID() string { return c.Metadata()["prism-request-id"] }

// Stream is a call with more than one message. One goroutine at a time may send, and one receive.
type Stream struct {
	*Call
	messages *messages
	ctx      context.Context
}

// Send sends one message, when the client has taken enough of what was sent before.
func (s *Stream) Send(value any) error { return s.SendAt("", value) }

// SendAt sends a message after which a later stream can resume; see ResumeAfter.
func (s *Stream) SendAt(position string, value any) error {
	data, err := encode(value)
	if err != nil {
		return err
	}
	return s.messages.send(s.ctx, streamResponse(data, position))
}

// ResumeAfter is the position after which the client wants the stream; "" without a resume.
func (s *Stream) ResumeAfter() string { return s.Metadata()["prism-last-event-id"] }

// Receive decodes the client's next message; io.EOF where there are no more.
func (s *Stream) Receive(value any) error {
	params, err := s.messages.receive(s.ctx)
	if err != nil {
		return err
	}
	return decode(params, value)
}

// Health of a plugin. Degraded keeps its traffic, unhealthy loses it.
type Health struct {
	Status  HealthStatus      `json:"status"`
	Message string            `json:"message,omitempty"`
	Details map[string]string `json:"details,omitempty"`
}

// HealthStatus is part of Health.
type HealthStatus int

// The health statuses.
const (
	Healthy HealthStatus = iota
	Degraded
	Unhealthy
)

// Plugin is what Serve serves. A process that listens may have several sessions at a time.
type Plugin struct {
	Name       string
	Version    string
	Operations Operations

	// Start is called once in a session, before its calls: open what the backend needs, and
	// keep it in Session.State. An error refuses the plugin, and the operator reads it.
	Start func(context.Context, *Session) error
	// Stop is called at the end of a session that was started, after its calls: those that go on
	// seconds after they were cancelled are not waited for.
	Stop func(*Session)
	// Health is asked at intervals; without it the plugin is healthy.
	Health func(context.Context, *Session) Health

	// What is announced to the proxy; 0 stands for what the comment says.
	MaxStreams uint32 // 1000 calls at a time
	MaxFrame   uint32 // 16 MiB
	Window     uint32 // 256 KiB of a stream's messages that are not yet received
}

var operationName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// check says what is wrong with a plugin, before it meets a proxy.
func (p *Plugin) check() error {
	if p.Name == "" {
		return errors.New("the plugin has no name: prism.Serve(\"orders\", …)")
	}
	if len(p.Operations) == 0 {
		return fmt.Errorf("plugin %q has no operations", p.Name)
	}
	for name, operation := range p.Operations {
		if !operationName.MatchString(name) {
			hint := regexp.MustCompile(`[^a-z0-9_]+`).ReplaceAllString(strings.ToLower(name), "_")
			return fmt.Errorf("operation %q: no client could call it; a name is 1 to 64 lower-case "+
				"letters, digits and underscores, a letter first, such as %q", name, hint)
		}
		if operation.unary == nil && operation.stream == nil {
			return fmt.Errorf("operation %q has no handler: make it with prism.Unary or prism.Streaming", name)
		}
		for _, schema := range []string{operation.ParamsSchema, operation.ResultSchema} {
			if schema != "" && (!json.Valid([]byte(schema)) || !isObject([]byte(schema))) {
				return fmt.Errorf("operation %q: its schema is no JSON object: %s", name, schema)
			}
		}
	}
	return nil
}

// declarations of the operations, as Initialize answers them.
func (p *Plugin) declarations() (names []string, declared []map[string]any) {
	for name := range p.Operations {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		o := p.Operations[name]
		one := map[string]any{"name": name, "idempotent": o.Idempotent, "streaming": o.stream != nil}
		for key, value := range map[string]any{
			"access": int(o.Access), "cost": o.Cost, "description": o.Description,
			"params_schema": o.ParamsSchema, "result_schema": o.ResultSchema,
		} {
			if !reflect.ValueOf(value).IsZero() {
				one[key] = value
			}
		}
		declared = append(declared, one)
	}
	return names, declared
}

func isObject(data []byte) bool {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	return len(trimmed) > 0 && trimmed[0] == '{'
}

// decode reads parameters; what does not fit is the caller's error, with the path.
func decode(params []byte, into any) error {
	if len(params) == 0 {
		params = []byte("{}")
	}
	if !isObject(params) || !json.Valid(params) {
		return Errorf(InvalidArgument, "the parameters must be one JSON object")
	}
	if raw, ok := into.(*json.RawMessage); ok {
		*raw = params
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(params))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return Errorf(InvalidArgument, "expected %s, found %s - at `$.%s`", wrong.Type, wrong.Value, wrong.Field)
	}
	if err != nil {
		return Errorf(InvalidArgument, "the parameters do not fit: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// encode writes a result as JSON.
func encode(value any) ([]byte, error) {
	if raw, ok := value.(json.RawMessage); ok {
		if !json.Valid(raw) {
			return nil, errors.New("the result is a json.RawMessage that is not JSON")
		}
		return raw, nil
	}
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), nil
}

// statusOf turns what a handler returned into a status and a sentence; "" where it is a fault.
func statusOf(ctx context.Context, err error) (Status, string) {
	var told *Error
	switch {
	case errors.As(err, &told) && told.Status > OK && told.Status <= Unauthenticated:
		return told.Status, told.Message
	case ctx.Err() == context.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded, "the time of the call is up"
	case ctx.Err() != nil:
		return Cancelled, "the call was cancelled"
	}
	return Internal, ""
}
