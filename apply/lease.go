package apply

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// unrenewedError says that a lease ran out because its journal could not be
// reached.
type unrenewedError struct {
	plan string
	err  error
}

func (e *unrenewedError) Error() string {
	return fmt.Sprintf("apply: plan %s: its lease ran out and could not be renewed: %v", e.plan, e.err)
}

func (e *unrenewedError) Unwrap() error { return e.err }

// leased runs f and renews the lease three times as often as it must be while f
// runs. f's context ends with the lease: when another has it, or when nothing was
// heard of the journal for so long that another may. The error says so; it is nil
// although f failed.
func (r *round) leased(f func(ctx context.Context)) error {
	ctx, end := context.WithCancelCause(r.ctx)
	beat, still := context.WithCancel(r.ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.keep(beat, end) }()
	f(ctx)
	still()
	err := <-ended
	end(nil)
	return err
}

// keep renews the lease until beat ends, by the machine's own clock: a call that
// hangs turns no other.
func (r *round) keep(beat context.Context, end context.CancelCauseFunc) error {
	every := r.a.LeaseFor / 3
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for good := time.Now(); ; {
		select {
		case <-beat.Done():
			return nil
		case <-ticker.C:
		}
		asked := time.Now()
		ctx, cancel := context.WithTimeout(beat, every)
		err := r.a.Journal.Renew(ctx, r.lease, r.a.LeaseFor)
		cancel()
		switch {
		case err == nil:
			good = asked
		case beat.Err() != nil:
			return nil
		case errors.As(err, new(*LostError)):
			end(err)
			return err
		case time.Since(good) >= r.a.LeaseFor-every:
			err = &unrenewedError{plan: r.lease.Plan, err: err}
			end(err)
			return err
		}
	}
}

// guard renews the lease before a request that changes something, which is not sent
// without it.
func (r *round) guard(ctx context.Context, send func() Result) Result {
	if ctx.Err() != nil {
		return Result{Outcome: Unsure, Detail: "not sent: " + context.Cause(ctx).Error()}
	}
	if r.stopped = r.renew(); r.stopped != nil {
		return Result{Outcome: Unsure, Detail: "not sent: " + r.stopped.Error()}
	}
	r.a.observe(BeforeAct)
	result := send()
	r.a.observe(AfterAct)
	return result
}

func (r *round) renew() error {
	r.a.observe(BeforeRenew)
	err := r.a.Journal.Renew(r.ctx, r.lease, r.a.LeaseFor)
	if err == nil {
		r.a.observe(AfterRenew)
	}
	return err
}
