package coordtest

import (
	"bytes"
	"strings"
	"time"

	"github.com/onceward/coordinator"
)

func managementChecks() []check {
	return []check{
		{"P5", "a checkpoint outlives its attempt", checkpoints},
		{"P3", "a grant goes on in another process", resumes},
		{"P3", "what lapsed in quarantine waits for its resolution", quarantine},
		{"P4", "Inspect tells what is there", inspects},
		{"P1", "hashed keys are hidden, and apart under another secret", hashed},
	}
}

func checkpoints(t *trial) {
	for kind, key := range t.kinds() {
		every := payloads()["every byte"]
		l := t.claim(t.c, key, coordinator.LeaseFor(short), coordinator.ManualRenewal())
		if l.Checkpoint() != nil {
			t.Errorf("%s: the first attempt found a checkpoint", kind)
		}
		t.ok("checkpoint", l.SaveCheckpoint(t.ctx, []byte("first, and longer than the second")))
		t.ok("checkpoint", l.SaveCheckpoint(t.ctx, every))
		t.lapsed(key)
		for attempt := 2; attempt <= 4; attempt++ {
			l = t.claim(t.c, key)
			if l.Attempt() != attempt || !bytes.Equal(l.Checkpoint(), every) {
				t.Errorf("%s: attempt %d found %q as attempt %d", kind, attempt, l.Checkpoint(), l.Attempt())
			}
			t.ok("renew", l.Renew(t.ctx))
			t.ok("release", l.Release(t.ctx))
		}
		l = t.claim(t.c, key)
		t.ok("empty checkpoint", l.SaveCheckpoint(t.ctx, nil))
		t.ok("release", l.Release(t.ctx))
		if l = t.claim(t.c, key); len(l.Checkpoint()) != 0 {
			t.Errorf("%s: an empty checkpoint is found as %q", kind, l.Checkpoint())
		}
		t.ok("checkpoint", l.SaveCheckpoint(t.ctx, every))
		t.ok("expire", t.c.Expire(t.ctx, key))
		if l = t.claim(t.c, key); l.Attempt() != 1 || l.Checkpoint() != nil {
			t.Errorf("%s: after expire, attempt %d found %q", kind, l.Attempt(), l.Checkpoint())
		}
	}
}

func resumes(t *trial) {
	there := t.open()
	for kind, key := range t.kinds() {
		l := t.claim(t.c, key, fingerprint)
		t.ok("checkpoint", l.SaveCheckpoint(t.ctx, []byte("half")))
		g, err := coordinator.ParseGrant(l.Grant().String())
		t.ok("parse", err)
		r, err := there.Resume(t.ctx, key, g)
		t.ok("resume", err)
		if r.Grant() != l.Grant() || r.Attempt() != 1 || string(r.Checkpoint()) != "half" {
			t.Errorf("%s: resumed token %d, attempt %d, checkpoint %q", kind, r.Token(), r.Attempt(), r.Checkpoint())
		}
		t.ok("checkpoint, resumed", r.SaveCheckpoint(t.ctx, []byte("more")))
		t.want(kind+": an older checkpoint than the resumed one's", l.SaveCheckpoint(t.ctx, []byte("less")), coordinator.ErrStaleToken)
		t.ok("complete, resumed", r.Complete(t.ctx, []byte("done")))
		got, err := t.c.Result(t.ctx, key, []byte("fp"))
		if err != nil || string(got.Payload) != "done" {
			t.Errorf("%s: the result is %q, %v", kind, got.Payload, err)
		}
		_, err = there.Resume(t.ctx, key, g)
		t.want(kind+": resume what is finished", err, coordinator.ErrStaleToken)
	}
}

func quarantine(t *trial) {
	for kind, key := range t.kinds() {
		claim := func() error {
			_, err := t.c.Claim(t.ctx, key, coordinator.QuarantineLapsed())
			return err
		}
		lapse := func() *coordinator.Lease {
			l := t.claim(t.c, key, coordinator.QuarantineLapsed(), coordinator.LeaseFor(short), coordinator.ManualRenewal())
			t.want(kind+": resolve what is in progress", t.c.Resolve(t.ctx, key, coordinator.Resolution{Rerun: true}), coordinator.ErrInProgress)
			t.lapsed(key)
			t.want(kind+": claim what lapsed", claim(), coordinator.ErrUncertain)
			return l
		}
		t.want(kind+": resolve nothing", t.c.Resolve(t.ctx, key, coordinator.Resolution{Rerun: true}), coordinator.ErrNotFound)
		late := lapse()
		t.ok("resolve to rerun", t.c.Resolve(t.ctx, key, coordinator.Resolution{Rerun: true}))
		t.want(kind+": completing what was resolved", late.Complete(t.ctx, nil), coordinator.ErrStaleToken)
		t.want(kind+": writing what was resolved", t.c.Fence(key).Do(t.ctx, late.Grant(), "set", t.own(t.c.Fence(key)), 1).Err(), coordinator.ErrStaleToken)
		t.ok("resolve again", t.c.Resolve(t.ctx, key, coordinator.Resolution{Rerun: true}))
		late = lapse()
		if late.Attempt() != 2 {
			t.Errorf("%s: after a resolution it is attempt %d", kind, late.Attempt())
		}
		t.ok("resolve to a failure", t.c.Resolve(t.ctx, key, coordinator.Resolution{Failed: true, Payload: []byte("lost")}))
		t.ok("resolve again", t.c.Resolve(t.ctx, key, coordinator.Resolution{Failed: true, Payload: []byte("lost")}))
		t.want(kind+": resolve otherwise", t.c.Resolve(t.ctx, key, coordinator.Resolution{Payload: []byte("found")}), coordinator.ErrCompleted)
		r, ok := coordinator.ResultOf(claim())
		if !ok || !r.Failed || string(r.Payload) != "lost" || r.Token <= late.Token() {
			t.Errorf("%s: resolved to %q, failed %v, token %d after %d", kind, r.Payload, r.Failed, r.Token, late.Token())
		}
	}
}

func inspects(t *trial) {
	for kind, key := range t.kinds() {
		if r := t.inspect(key); r.State != coordinator.StateAbsent || r.Token != 0 {
			t.Errorf("%s: nothing is %+v", kind, r)
		}
		l := t.claim(t.c, key, fingerprint)
		before := t.raw(key)
		r := t.inspect(key)
		if r.State != coordinator.StateInProgress || r.Token != l.Token() || r.Attempt != 1 || string(r.Fingerprint) != "fp" ||
			r.LeaseRemaining < long || r.LeaseRemaining > long+long/10 || strings.Contains(r.Owner, l.Grant().Owner) {
			t.Errorf("%s: in progress is %+v", kind, r)
		}
		if after := t.raw(key); after[t.names(key)[0]] != before[t.names(key)[0]] {
			t.Errorf("%s: a look changed the record", kind)
		}
		t.ok("complete", l.Complete(t.ctx, []byte(resultText)))
		r = t.inspect(key)
		if age := time.Since(r.CompletedAt); r.State != coordinator.StateCompleted || r.PayloadSize != len(resultText) || r.LeaseRemaining != 0 || age > time.Hour || age < -time.Hour {
			t.Errorf("%s: completed is %+v", kind, r)
		}
	}
}

func hashed(t *trial) {
	const owned = "with hashed keys"
	one, other := t.open(coordinator.WithHashedKeys([]byte("secret"))), t.open(coordinator.WithHashedKeys([]byte("another")))
	again := t.open(coordinator.WithHashedKeys([]byte("secret")))
	for kind, key := range t.kinds() {
		key.Scope, key.ID = owned, owned+" "+key.ID
		l := t.claim(one, key)
		t.claim(other, key)
		t.claim(t.c, key)
		_, err := again.Claim(t.ctx, key)
		t.want(kind+": the same secret", err, coordinator.ErrInProgress)
		f := one.Fence(key)
		t.ok("a fenced write", f.Do(t.ctx, l.Grant(), "set", t.own(f), 1, "px", 60000).Err())
		t.ok("complete", l.Complete(t.ctx, []byte("done")))
		r, err := again.Result(t.ctx, key, nil)
		if err != nil || string(r.Payload) != "done" {
			t.Errorf("%s: the result is %q, %v", kind, r.Payload, err)
		}
		tag := f.Tag()
		for _, part := range []string{"hashed", "conformance", "resource"} {
			if strings.Contains(tag, part) {
				t.Errorf("%s: %q shows %q", kind, tag, part)
			}
		}
	}
}
