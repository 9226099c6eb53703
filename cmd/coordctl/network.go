package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"regexp"
	"sync"

	"github.com/onceward/coordinator/internal/faultproxy"
)

// network is what lies between the workers and Redis: a TCP proxy per server, which loses the replies, and
// holds back the requests, that the schedule names.
type network struct {
	*world

	mu      sync.Mutex
	closed  bool
	proxies map[string]*faultproxy.Proxy // by the server's address
}

func newNetwork(w *world) *network {
	return &network{world: w, proxies: map[string]*faultproxy.Proxy{}}
}

// dial connects to a server by way of its proxy.
func (n *network) dial(ctx context.Context, netw, addr string) (net.Conn, error) {
	proxy, err := n.proxy(addr)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, netw, proxy.Addr())
}

func (n *network) proxy(addr string) (*faultproxy.Proxy, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, net.ErrClosed
	}
	if p := n.proxies[addr]; p != nil {
		return p, nil
	}
	p, err := faultproxy.New(addr)
	if err != nil {
		return nil, err
	}
	p.SetRule(n.judge)
	n.proxies[addr] = p
	return p, nil
}

func (n *network) all() []*faultproxy.Proxy {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*faultproxy.Proxy
	for _, p := range n.proxies {
		all = append(all, p)
	}
	return all
}

func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	for _, p := range n.all() {
		_ = p.Close()
	}
}

// judge decides about one request.
func (n *network) judge(r faultproxy.Request) faultproxy.Verdict {
	payment, at := n.purpose(r)
	if payment == "" {
		return faultproxy.Verdict{}
	}
	switch n.schedule.take(payment, at) {
	case loseClaim:
		n.diary.note(warn, "network", "loses the reply to the claim of %s; it is asked again", payment)
		return faultproxy.Verdict{Action: faultproxy.DropReply}
	case loseBooking:
		n.diary.note(warn, "network", "loses the reply to the booking of %s; the worker cannot know", payment)
		return faultproxy.Verdict{Action: faultproxy.DropReply}
	case loseResult:
		n.diary.note(warn, "network", "loses the reply to the receipt of %s; it is stored again", payment)
		return faultproxy.Verdict{Action: faultproxy.DropReply}
	case delayBooking:
		n.diary.note(warn, "network", "keeps the booking of %s back and breaks the connection", payment)
		return faultproxy.Verdict{Action: faultproxy.Hold}
	}
	return faultproxy.Verdict{}
}

// paymentIn finds the payment that a Redis key belongs to.
var paymentIn = regexp.MustCompile(`:(pay-\d+)\}`)

// purpose tells what a script's call is about. It looks at what the call carries, not at how the library
// does it: a claim is the first that names a payment, and only bookings and results carry a receipt.
func (n *network) purpose(r faultproxy.Request) (payment string, at moment) {
	if r.Name != "EVALSHA" && r.Name != "EVAL" {
		return "", 0
	}
	ledger, receipt := false, false
	for _, arg := range r.Args {
		if found := paymentIn.FindSubmatch(arg); found != nil {
			payment = string(found[1])
			ledger = ledger || bytes.HasPrefix(arg, []byte(n.ledgerName))
		}
		receipt = receipt || bytes.HasPrefix(arg, []byte(`{"payment":`))
	}
	switch {
	case ledger:
		return payment, booking
	case receipt:
		return payment, finishing
	}
	return payment, claiming
}

// deliverLate lets the bookings go that were kept back: long after their senders gave up, and after
// somebody else has made the payment. The ledger shows whether they were let in.
func (n *network) deliverLate(ctx context.Context, book *ledger) error {
	for _, p := range n.all() {
		before := map[string]int{}
		for _, id := range n.schedule.payments {
			entries, err := book.entries(ctx, paymentKey(id))
			if err != nil {
				return fmt.Errorf("cannot read the ledger: %w", err)
			}
			before[id] = len(entries)
		}
		for _, late := range p.Release() {
			id, _ := n.purpose(late.Request)
			if late.Err != nil {
				return fmt.Errorf("the booking of %s cannot be delivered late: %w", id, late.Err)
			}
			entries, err := book.entries(ctx, paymentKey(id))
			if err != nil {
				return fmt.Errorf("cannot read the ledger: %w", err)
			}
			if len(entries) > before[id] {
				n.diary.note(bad, "network", "delivers the booking of %s at last, which now stands in the ledger %d times", id, len(entries))
				continue
			}
			n.tally.staleRefused.Add(1)
			n.diary.note(good, "network", "delivers the booking of %s at last: the fence refuses its old token", id)
		}
	}
	return nil
}
