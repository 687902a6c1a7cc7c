package prism

import (
	"context"
	"sync"
	"time"
)

// callContext is the context of one call. Its timer and channel are made when somebody asks for
// them: most handlers are done before, and context.WithDeadline would cost as much as the rest.
type callContext struct {
	deadline time.Time // zero: none
	mutex    sync.Mutex
	done     chan struct{}
	timer    *time.Timer
	err      error
}

func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

func (c *callContext) Value(any) any { return nil }

func (c *callContext) Err() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.err == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.end(context.DeadlineExceeded)
	}
	return c.err
}

func (c *callContext) Done() <-chan struct{} {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.done == nil {
		if c.done = make(chan struct{}); c.err != nil {
			close(c.done)
		} else if !c.deadline.IsZero() {
			c.timer = time.AfterFunc(time.Until(c.deadline), func() { c.cancel(context.DeadlineExceeded) })
		}
	}
	return c.done
}

// cancel ends the context, unless it has ended.
func (c *callContext) cancel(why error) {
	c.mutex.Lock()
	c.end(why)
	c.mutex.Unlock()
}

func (c *callContext) end(why error) {
	if c.err != nil {
		return
	}
	c.err = why
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.done != nil {
		close(c.done)
	}
}
