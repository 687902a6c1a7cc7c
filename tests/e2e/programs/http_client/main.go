// A client as Go programs have it: net/http, and golang.org/x/net/http2 for
// HTTP/2 without TLS.
//
// Usage: http_client (http1|http2) URL CALLS < BODY
//
// Posts the body CALLS times, at most 50 at once, and prints one line for each
// different outcome: how often, protocol, status, body.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
)

const atOnce = 50

func transport(kind string, url string) http.RoundTripper {
	insecure := &tls.Config{InsecureSkipVerify: true}
	switch {
	case kind == "http1":
		return &http.Transport{
			MaxIdleConnsPerHost: atOnce,
			TLSClientConfig:     insecure,
			// Empty rather than nil: HTTP/2 is not offered.
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		}
	case strings.HasPrefix(url, "https:"):
		return &http.Transport{TLSClientConfig: insecure, ForceAttemptHTTP2: true}
	default:
		return &http2.Transport{
			AllowHTTP: true,
			DialTLSContext: func(
				ctx context.Context, network, address string, _ *tls.Config,
			) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			},
		}
	}
}

func call(client *http.Client, url string, body []byte) string {
	response, err := client.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	received, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %d %s", response.Proto, response.StatusCode, received)
}

func main() {
	client := &http.Client{Transport: transport(os.Args[1], os.Args[2])}
	calls, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	outcomes := map[string]int{}
	var lock sync.Mutex
	var running sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for i := 0; i < calls; i++ {
		places <- struct{}{}
		running.Add(1)
		go func() {
			defer running.Done()
			outcome := call(client, os.Args[2], body)
			lock.Lock()
			outcomes[outcome]++
			lock.Unlock()
			<-places
		}()
	}
	running.Wait()
	for outcome, count := range outcomes {
		fmt.Println(count, outcome)
	}
}
