// The example that every kit has, with the same operations: sdks/README.md says what each does.
package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync/atomic"
	"time"

	prism "prism/sdks/go"
)

type none struct{}

type failure struct {
	Code    prism.Status `json:"code"`
	Message string       `json:"message"`
}

type pause struct {
	Seconds float64 `json:"seconds"`
}

type counting struct {
	To   int `json:"to"`
	Size int `json:"size"`
}

type counted struct {
	N       int    `json:"n"`
	Padding string `json:"padding,omitempty"`
}

type number struct {
	N float64 `json:"n"`
}

type size struct {
	Bytes int `json:"bytes"`
}

type line struct {
	Message string `json:"message"`
	Level   string `json:"level"`
}

var wasCancelled atomic.Int64

func echo(_ context.Context, _ *prism.Call, params json.RawMessage) (json.RawMessage, error) {
	return params, nil
}

func fail(_ context.Context, _ *prism.Call, params failure) (none, error) {
	return none{}, prism.Errorf(params.Code, "%s", params.Message)
}

func crash(context.Context, *prism.Call, none) (none, error) {
	panic("as asked")
}

func sleep(ctx context.Context, _ *prism.Call, params pause) (none, error) {
	select {
	case <-time.After(time.Duration(params.Seconds * float64(time.Second))):
		return none{}, nil
	case <-ctx.Done():
		wasCancelled.Add(1)
		return none{}, ctx.Err()
	}
}

func cancelled(context.Context, *prism.Call, none) (map[string]int64, error) {
	return map[string]int64{"count": wasCancelled.Load()}, nil
}

func count(_ context.Context, stream *prism.Stream, params counting) error {
	padding := strings.Repeat("x", params.Size)
	for n := 1; n <= params.To; n++ {
		if err := stream.Send(counted{n, padding}); err != nil {
			return err
		}
	}
	return nil
}

func sum(_ context.Context, stream *prism.Stream, first number) error {
	total := first.N
	for {
		var next number
		err := stream.Receive(&next)
		if err == io.EOF {
			return stream.Send(map[string]float64{"sum": total})
		}
		if err != nil {
			return err
		}
		total += next.N
	}
}

func big(_ context.Context, _ *prism.Call, params size) (map[string]string, error) {
	return map[string]string{"data": strings.Repeat("x", params.Bytes)}, nil
}

func whoami(_ context.Context, call *prism.Call, _ none) (map[string]any, error) {
	return map[string]any{
		"principal": call.Principal(), "request_id": call.RequestID(),
		"namespace": call.Namespace, "metadata": call.Metadata(),
	}, nil
}

func secret(_ context.Context, call *prism.Call, _ none) (map[string]bool, error) {
	_, there := call.Credentials["password"]
	return map[string]bool{"password": there}, nil
}

func log(_ context.Context, call *prism.Call, params line) (none, error) {
	call.Log(params.Level, "%s", params.Message)
	return none{}, nil
}

func main() {
	read := prism.Declaration{Idempotent: true, Access: prism.Read}
	prism.Serve("kit", "1.0.0", prism.Operations{
		"echo": prism.Unary(echo, prism.Declaration{
			Idempotent: true, Access: prism.Read, Description: "Say it again.",
			ParamsSchema: `{"type": "object"}`, ResultSchema: `{"type": "object"}`,
		}),
		"fail":      prism.Unary(fail, prism.Declaration{Access: prism.Read}),
		"panic":     prism.Unary(crash, prism.Declaration{Access: prism.Read}),
		"sleep":     prism.Unary(sleep, prism.Declaration{Access: prism.Read}),
		"cancelled": prism.Unary(cancelled, read),
		"count":     prism.Streaming(count, read),
		"sum":       prism.Streaming(sum, read),
		"big":       prism.Unary(big, read),
		"whoami":    prism.Unary(whoami, read),
		"secret":    prism.Unary(secret, read),
		"log":       prism.Unary(log, prism.Declaration{Access: prism.Write}),
	})
}
