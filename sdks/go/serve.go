package prism

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Serve is the main program of a plugin without a state of its own; it does not return.
func Serve(name, version string, operations Operations) {
	(&Plugin{Name: name, Version: version, Operations: operations}).Serve()
}

// Serve is the whole main program of a plugin; it does not return. How it meets the proxy, in this
// order: --connect or --listen; PRISM_PLUGIN_FD, the socket that a proxy hands down to a plugin
// that it starts; PLUGIN_SOCKET, the path of the proxy's socket to dial. The exit status is 0
// after a clean end, 1 when no host can be served, 2 for wrong arguments.
func (p *Plugin) Serve() {
	os.Exit(p.main(os.Args[1:]))
}

func (p *Plugin) main(arguments []string) int {
	if err := p.check(); err != nil {
		return say(2, err)
	}
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	connect := flags.String("connect", "", "dial the proxy's socket, `unix:PATH`, again and again")
	listen := flags.String("listen", "", "wait for a proxy at `ADDRESS`: unix:PATH or tcp:HOST:PORT")
	cert := flags.String("tls-cert", "", "certificate chain (PEM `FILE`)")
	key := flags.String("tls-key", "", "its private key (PEM `FILE`)")
	ca := flags.String("tls-client-ca", "", "accept only proxies with a certificate of this authority (PEM `FILE`)")
	insecure := flags.Bool("insecure", false, "allow TCP without TLS, on loopback only")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // the heap of most plugins is so small that it would run all the time
	}
	server := &server{plugin: p, stopping: make(chan struct{}), sessions: map[*Session]bool{}}
	server.stopOnSignal()
	descriptor, path := os.Getenv("PRISM_PLUGIN_FD"), os.Getenv("PLUGIN_SOCKET")
	os.Unsetenv("PRISM_PLUGIN_FD") // programs that the plugin starts shall not find it
	switch {
	case *listen != "":
		listener, err := listenAt(*listen, *cert, *key, *ca, *insecure)
		if err != nil {
			return say(2, err)
		}
		return server.accept(listener)
	case *connect != "":
		return server.dial(strings.TrimPrefix(*connect, "unix:"))
	case descriptor != "":
		return server.inherited(descriptor)
	case path != "":
		return server.dial(path)
	}
	return say(2, errors.New("nothing says where the proxy is: use --connect or --listen, set "+
		"PLUGIN_SOCKET, or let Prism start this plugin (`command:`)"))
}

func say(code int, err error) int {
	fmt.Fprintln(os.Stderr, err)
	return code
}

// server meets hosts, and ends them all when the process is asked to stop.
type server struct {
	plugin   *Plugin
	mutex    sync.Mutex
	sessions map[*Session]bool
	stopping chan struct{}
}

func (v *server) stopOnSignal() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-signals
		v.mutex.Lock()
		close(v.stopping)
		for session := range v.sessions {
			go session.drain()
		}
		v.mutex.Unlock()
		<-signals
		os.Exit(1) // it was asked twice
	}()
}

func (v *server) isStopping() bool {
	select {
	case <-v.stopping:
		return true
	default:
		return false
	}
}

// serve serves one host to its end.
func (v *server) serve(socket net.Conn) (*Session, error) {
	session := newSession(v.plugin, socket)
	v.mutex.Lock()
	v.sessions[session] = true
	if v.isStopping() {
		go session.drain()
	}
	v.mutex.Unlock()
	err := session.run()
	v.mutex.Lock()
	delete(v.sessions, session)
	v.mutex.Unlock()
	if err != nil {
		say(0, err)
	}
	return session, err
}

func (v *server) inherited(text string) int {
	number, err := strconv.Atoi(text)
	if err == nil {
		syscall.CloseOnExec(number)
		file := os.NewFile(uintptr(number), "host")
		var socket net.Conn
		if socket, err = net.FileConn(file); err == nil {
			file.Close()
			if _, err = v.serve(socket); err == nil {
				return 0
			}
			return 1
		}
	}
	return say(2, fmt.Errorf("PRISM_PLUGIN_FD=%s is not a connected socket (%v); only Prism sets this "+
		"variable, when it starts a plugin", text, err))
}

func (v *server) dial(path string) int {
	pause, told := firstRetry, false
	for !v.isStopping() {
		socket, err := net.Dial("unix", path)
		if err != nil {
			if !told {
				say(0, fmt.Errorf("waiting for the proxy: %v", err))
				told = true
			}
		} else {
			told = false
			session, err := v.serve(socket)
			if session.replaced {
				say(0, errors.New("another process has taken this one's place; ending"))
				return 0
			}
			if pause = firstRetry; err != nil {
				pause = lastRetry
			}
		}
		select {
		case <-v.stopping:
		case <-time.After(pause):
		}
		if pause *= 2; pause > lastRetry {
			pause = lastRetry
		}
	}
	return 0
}

func (v *server) accept(listener net.Listener) int {
	fmt.Fprintf(os.Stderr, "listening on %s:%s\n", listener.Addr().Network(), listener.Addr())
	go func() {
		<-v.stopping
		listener.Close()
	}()
	var serving sync.WaitGroup
	for {
		socket, err := listener.Accept()
		if err != nil {
			if v.isStopping() {
				serving.Wait()
				return 0
			}
			say(0, fmt.Errorf("cannot accept: %v", err))
			time.Sleep(firstRetry) // out of descriptors, perhaps
			continue
		}
		serving.Add(1)
		go func() {
			defer serving.Done()
			_, _ = v.serve(socket)
		}()
	}
}

// listenAt listens at unix:PATH, for this user alone, or at tcp:HOST:PORT.
func listenAt(address, cert, key, ca string, insecure bool) (net.Listener, error) {
	kind, where, _ := strings.Cut(address, ":")
	switch {
	case kind == "unix" && where != "":
		if probe, err := net.Dial("unix", where); err == nil {
			probe.Close()
			return nil, fmt.Errorf("somebody listens on %s already", address)
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(where) // of a process that has ended
		}
		defer syscall.Umask(syscall.Umask(0o177))
		return net.Listen("unix", where)
	case kind != "tcp" || where == "":
		return nil, fmt.Errorf("%q is not an address: write unix:PATH or tcp:HOST:PORT", address)
	}
	if cert == "" && key == "" && ca == "" {
		host, _, err := net.SplitHostPort(where)
		if err != nil {
			return nil, err
		}
		if !insecure {
			return nil, fmt.Errorf("refusing to listen on %s without TLS: give --tls-cert, --tls-key and "+
				"--tls-client-ca, or --insecure for a test on loopback", address)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("--insecure is for loopback addresses; %s is not one", address)
		}
		return net.Listen("tcp", where)
	}
	if cert == "" || key == "" {
		return nil, errors.New("--tls-cert and --tls-key belong together, and --tls-client-ca needs both")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot use the TLS files (%s, %s): %v", cert, key, err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if ca != "" {
		text, err := os.ReadFile(ca)
		config.ClientCAs = x509.NewCertPool()
		if err != nil || !config.ClientCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("cannot use the TLS files (%s): no certificate could be read (%v)", ca, err)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return tls.Listen("tcp", where, config)
}
