package prism

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Frames, as docs/protocol.md has them: a header of 16 bytes, and a payload.
const (
	tHello = iota + 1
	tOpen
	tData
	tClose
	tCancel
	tCredit
	tPing
	tGoAway
	tNote
)

const (
	mInitialize = iota + 1
	mHealthCheck
	mExecute
	mExecuteStream
	mShutdown
)

const (
	headerSize   = 16
	codecJSON    = 1
	flagEnd      = 1
	flagNotBegun = 2
	flagAck      = 4
	flagTooLarge = 8
	maxHello     = 64 * 1024
)

// frame is a header and its payload, which is valid until the next one is read.
type frame struct {
	typ, flags, codec, method byte
	stream, aux               uint32
	payload                   []byte
}

// broken is an error of the host: it has broken a rule of the protocol.
func broken(format string, args ...any) error {
	return fmt.Errorf("the host broke the protocol: "+format, args...)
}

// readFrame reads one frame of at most limit bytes; the header is checked before the payload is
// awaited. io.EOF is the end of the stream between two frames.
func readFrame(from io.Reader, buffer []byte, limit uint32) (frame, []byte, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return frame{}, buffer, err
	}
	f := frame{
		typ: head[8], flags: head[9], codec: head[10], method: head[11],
		stream: binary.BigEndian.Uint32(head[4:]), aux: binary.BigEndian.Uint32(head[12:]),
	}
	size := binary.BigEndian.Uint32(head[:])
	ofConnection := f.typ == tHello || f.typ == tPing || f.typ == tGoAway || f.typ == tNote
	bare := f.typ == tCancel || f.typ == tCredit || f.typ == tPing
	switch {
	case f.typ < tHello || f.typ > tNote:
		return f, buffer, broken("frame type %d", f.typ)
	case ofConnection != (f.stream == 0):
		return f, buffer, broken("frame type %d on stream %d", f.typ, f.stream)
	case bare && size > 0:
		return f, buffer, broken("frame type %d with a payload", f.typ)
	case size > limit, f.typ == tHello && size > maxHello:
		return f, buffer, broken("a payload of %d bytes; the limit is %d", size, limit)
	case size > 0 && f.codec != codecJSON:
		return f, buffer, broken("a payload in codec %d; agreed is JSON", f.codec)
	}
	if uint32(cap(buffer)) < size {
		buffer = make([]byte, size)
	}
	f.payload = buffer[:size]
	if _, err := io.ReadFull(from, f.payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return f, buffer, err
	}
	return f, buffer, nil
}

// message decodes a payload; one that is empty is the message with all defaults.
func (f frame) message(into any) error {
	if len(f.payload) == 0 {
		return nil
	}
	if !utf8.Valid(f.payload) || !isObject(f.payload) {
		return broken("the payload is not one JSON object in UTF-8")
	}
	if err := json.Unmarshal(f.payload, into); err != nil {
		return broken("the payload cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// appendFrame writes a frame behind what is in out.
func appendFrame(out []byte, f frame) []byte {
	if len(f.payload) > 0 {
		f.codec = codecJSON
	}
	out = binary.BigEndian.AppendUint32(out, uint32(len(f.payload)))
	out = binary.BigEndian.AppendUint32(out, f.stream)
	out = append(out, f.typ, f.flags, f.codec, f.method)
	out = binary.BigEndian.AppendUint32(out, f.aux)
	return append(out, f.payload...)
}

// The messages of docs/protocol.md, as far as a plugin reads them.
type helloMessage struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Instance    string   `json:"instance,omitempty"`
	Codecs      []string `json:"codecs,omitempty"`
	Codec       string   `json:"codec,omitempty"`
	MaxFrame    *uint32  `json:"max_frame,omitempty"`
	Window      *uint32  `json:"window,omitempty"`
	MaxStreams  *uint32  `json:"max_streams,omitempty"`
	ProtocolMin *uint32  `json:"protocol_min,omitempty"`
}

type request struct {
	Operation  string
	ParamsJSON []byte
	ParamsRaw  string
	rawMeta    []byte // an object of texts, decoded when it is asked for
	once       sync.Once
	decoded    map[string]string
}

func (r *request) metadata() map[string]string {
	r.once.Do(func() { _ = json.Unmarshal(r.rawMeta, &r.decoded) })
	return r.decoded
}

// request decodes the payload of Execute, ExecuteStream and DATA.
func (f frame) request(into *request) error {
	if len(f.payload) == 0 || utf8.Valid(f.payload) && into.quick(f.payload) {
		return nil
	}
	*into = request{}
	var any struct {
		Operation  string            `json:"operation"`
		ParamsJSON string            `json:"params_json"`
		ParamsRaw  string            `json:"params_raw"`
		Metadata   map[string]string `json:"metadata"`
	}
	err := f.message(&any)
	into.Operation, into.ParamsJSON, into.ParamsRaw = any.Operation, []byte(any.ParamsJSON), any.ParamsRaw
	into.once.Do(func() { into.decoded = any.Metadata })
	return err
}

// quick reads a request as Prism writes it; false where it is written in another way, or wrong.
func (r *request) quick(p []byte) bool {
	i := 0
	is := func(b byte) bool {
		if i < len(p) && p[i] == b {
			i++
			return true
		}
		return false
	}
	// text is the inside of a string, and whether it has escapes.
	text := func() (inside []byte, escaped, ok bool) {
		if !is('"') {
			return nil, false, false
		}
		for from := i; i < len(p); i++ {
			switch b := p[i]; {
			case b == '"':
				i++
				return p[from : i-1], escaped, true
			case b == '\\':
				escaped = true
				i++
			case b < ' ':
				return nil, false, false
			}
		}
		return nil, false, false
	}
	for ok := is('{'); ok; ok = is(',') {
		key, escaped, good := text()
		if !good || escaped || !is(':') {
			return false
		}
		switch string(key) {
		case "operation":
			name, escaped, good := text()
			if !good || escaped {
				return false
			}
			r.Operation = string(name)
		case "params_json":
			inside, escaped, good := text()
			if !good {
				return false
			}
			if r.ParamsJSON = append([]byte(nil), inside...); escaped {
				if r.ParamsJSON, good = unescape(r.ParamsJSON); !good {
					return false
				}
			}
		case "metadata":
			from := i
			for inner := is('{'); inner; inner = is(',') {
				_, one, good := text()
				if !good || !is(':') {
					return false
				}
				if _, other, good := text(); !good || one || other {
					return false
				}
			}
			if !is('}') {
				return false
			}
			r.rawMeta = append([]byte(nil), p[from:i]...)
		default:
			return false
		}
	}
	return is('}') && i == len(p)
}

// unescape decodes the short escapes in place; false where there are others.
func unescape(text []byte) ([]byte, bool) {
	out := text[:0]
	for i := 0; i < len(text); i++ {
		b := text[i]
		if b == '\\' {
			i++
			at := strings.IndexByte(`"\/bfnrt`, text[i])
			if at < 0 {
				return nil, false
			}
			b = "\"\\/\b\f\n\r\t"[at]
		}
		out = append(out, b)
	}
	return out, true
}

type initializeRequest struct {
	Namespace   string            `json:"namespace"`
	ConfigJSON  string            `json:"config_json"`
	Credentials map[string]string `json:"credentials"`
	Cache       json.RawMessage   `json:"cache"`
}

type shutdownRequest struct {
	TimeoutSeconds float64 `json:"timeout_seconds"`
	Reason         string  `json:"reason"`
}

type reasonMessage struct {
	Reason string `json:"reason"`
}

func executeResponse(result []byte) []byte {
	out := make([]byte, 0, len(result)+len(result)/8+48)
	out = append(out, `{"success":true,"result_json":`...)
	return append(appendQuoted(out, result), '}')
}

func streamResponse(result []byte, position string) []byte {
	out := append(make([]byte, 0, len(result)+len(result)/8+48), `{"result_json":`...)
	out = appendQuoted(out, result)
	if position != "" {
		out = appendQuoted(append(out, `,"position":`...), []byte(position))
	}
	return append(out, '}')
}

func failure(status Status, sentence string, final bool) []byte {
	out := append([]byte(nil), `{"error_code":`...)
	out = strconv.AppendUint(out, uint64(status), 10)
	out = appendQuoted(append(out, `,"error":`...), []byte(sentence))
	if final {
		out = append(out, `,"is_final":true`...)
	}
	return append(out, '}')
}

// appendQuoted writes text as a JSON string; what is not UTF-8 becomes U+FFFD.
func appendQuoted(out, text []byte) []byte {
	if !utf8.Valid(text) {
		text = []byte(strings.ToValidUTF8(string(text), "\uFFFD"))
	}
	out = append(out, '"')
	from := 0
	for i, b := range text {
		if b >= ' ' && b != '"' && b != '\\' {
			continue
		}
		out = append(out, text[from:i]...)
		if from = i + 1; b < ' ' {
			out = append(out, fmt.Sprintf(`\u%04x`, b)...)
		} else {
			out = append(out, '\\', b)
		}
	}
	return append(append(out, text[from:]...), '"')
}

// -- PRISM_TRACE=1: every frame on standard error ---------------------------------------------

var typeNames = []string{"", "HELLO", "OPEN", "DATA", "CLOSE", "CANCEL", "CREDIT", "PING", "GOAWAY", "NOTE"}
var methodNames = []string{"", "Initialize", "HealthCheck", "Execute", "ExecuteStream", "Shutdown"}

const traced = 300 // bytes of a payload that are shown

// trace writes a frame, with every credential blanked; s may be nil before Initialize.
func trace(direction string, f frame, s *Session) {
	text := string(f.payload)
	if f.typ == tOpen && f.method == mInitialize { // nothing is known of its secrets yet
		var sent map[string]any
		if json.Unmarshal(f.payload, &sent) == nil && sent["credentials"] != nil {
			sent["credentials"] = "(hidden)"
			shown, _ := json.Marshal(sent)
			text = string(shown)
		}
	} else if s != nil {
		text = s.redact(text)
	}
	if len(text) > traced {
		text = strings.ToValidUTF8(text[:traced], "") + "…"
	}
	name := typeNames[f.typ]
	if f.typ == tOpen && int(f.method) < len(methodNames) {
		name += " " + methodNames[f.method]
	}
	fmt.Fprintf(os.Stderr, "%s %s stream=%d flags=%d aux=%d length=%d %s\n",
		direction, name, f.stream, f.flags, f.aux, len(f.payload), text)
}
