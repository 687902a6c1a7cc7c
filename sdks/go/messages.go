package prism

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// messages are those of one stream, in both directions, with their credit.
type messages struct {
	session *Session
	id      uint32
	half    int64 // of the window: what is given back at once, at the latest

	mutex    sync.Mutex
	received []received
	ended    bool // the host sends no more
	window   int64
	used     int64 // dealt with, and not yet given back
	over     bool  // the host sent without credit
	dropped  bool  // cancelled
	room     int64 // the credit for what we send
	wake     chan struct{}
	wakeRoom chan struct{}
}

type received struct {
	params []byte
	cost   int64
}

type tooLarge struct{ size, limit uint32 }

func (e *tooLarge) Error() string {
	return fmt.Sprintf("a message of %d bytes; the limit is %d (plugin.max_frame_bytes)", e.size, e.limit)
}

func newMessages(s *Session, f frame, window uint32) *messages {
	return &messages{
		session: s, id: f.stream, half: int64(window) / 2, ended: f.flags&flagEnd != 0,
		window: int64(window), room: int64(s.hostWindow),
		wake: make(chan struct{}, 1), wakeRoom: make(chan struct{}, 1),
	}
}

func notify(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// deliver takes a DATA of the host.
func (m *messages) deliver(f frame, message *request) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.dropped || m.over {
		return nil // it was under way
	}
	if m.ended {
		return broken("DATA after END on call %d", f.stream)
	}
	if m.window <= 0 {
		m.over = true
		notify(m.wake)
		go m.session.overrun(m.id)
		return nil
	}
	cost := int64(headerSize + len(f.payload))
	m.window -= cost
	m.ended = f.flags&flagEnd != 0
	if !m.ended || len(message.ParamsJSON) > 0 || message.ParamsRaw != "" {
		params := message.ParamsJSON
		if message.ParamsRaw != "" {
			params = []byte("MessagePack") // which decode refuses
		}
		m.received = append(m.received, received{params, cost})
	}
	notify(m.wake)
	return nil
}

// overrun ends a call whose host sent without credit.
func (s *Session) overrun(id uint32) {
	s.mutex.Lock()
	call := s.calls[id]
	s.mutex.Unlock()
	if call != nil {
		s.finish(call, frame{aux: uint32(Cancelled)})
	}
}

func (m *messages) overran() bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.over
}

func (m *messages) drop() {
	m.mutex.Lock()
	m.dropped, m.received = true, nil
	m.mutex.Unlock()
}

func (m *messages) credit(bytes uint32) error {
	m.mutex.Lock()
	m.room += int64(bytes)
	over := m.room > 1<<32-1
	m.mutex.Unlock()
	notify(m.wakeRoom)
	if over {
		return broken("CREDIT on call %d adds up to over 2^32", m.id)
	}
	return nil
}

// receive waits for the next message of the host, and gives its credit back.
func (m *messages) receive(ctx context.Context) ([]byte, error) {
	for {
		m.mutex.Lock()
		if len(m.received) > 0 {
			next := m.received[0]
			m.received = m.received[1:]
			m.used += next.cost
			back := int64(0)
			if m.used >= m.half && !m.ended {
				back, m.used = m.used, 0
				m.window += back
			}
			m.mutex.Unlock()
			if back > 0 {
				m.session.creditIfOpen(m.id, uint32(back))
			}
			return next.params, nil
		}
		ended := m.ended
		m.mutex.Unlock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if ended {
			return nil, io.EOF
		}
		select {
		case <-m.wake:
		case <-ctx.Done():
		}
	}
}

// creditIfOpen gives credit back, unless the call is over.
func (s *Session) creditIfOpen(id, bytes uint32) {
	s.mutex.Lock()
	if s.calls[id] != nil {
		s.queue(frame{typ: tCredit, stream: id, aux: bytes})
	}
	s.mutex.Unlock()
}

// send waits for credit, and for room in what is yet to be written.
func (m *messages) send(ctx context.Context, payload []byte) error {
	s := m.session
	if uint32(len(payload)) > s.answerMax {
		return &tooLarge{uint32(len(payload)), s.answerMax}
	}
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.mutex.Lock()
		enough := m.room > 0
		if enough {
			m.room -= int64(headerSize + len(payload))
		}
		m.mutex.Unlock()
		if enough {
			break
		}
		select {
		case <-m.wakeRoom:
		case <-ctx.Done():
		}
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for len(s.out) > maxQueued && !s.closed {
		s.changed.Wait()
	}
	if s.calls[m.id] == nil {
		return context.Canceled
	}
	s.queue(frame{typ: tData, stream: m.id, payload: payload})
	return nil
}
