package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

// keyFlags say which requests are covered, and what makes two of them the same.
type keyFlags struct {
	RequireKey         bool     `help:"Refuse requests without a key; by default they pass through."`
	Header             string   `placeholder:"NAME" help:"The key's header (default Idempotency-Key)."`
	QuotedOnly         bool     `help:"Refuse keys that are not in double quotes (RFC 9651)."`
	UUIDOnly           bool     `name:"uuid-only" help:"Refuse keys that are not UUIDs."`
	AnyAge             bool     `help:"Take UUIDv7 keys that are older than answers are kept."`
	Methods            []string `placeholder:"METHOD" help:"The methods that are covered; the default are all but GET, HEAD, OPTIONS and TRACE."`
	FingerprintHeaders []string `placeholder:"NAME" help:"Headers that must be the same in a retry, beside method, path, query and body."`
	CanonicalJSON      bool     `name:"canonical-json" help:"Compare JSON bodies by content (RFC 8785)."`
	MaxBody            int64    `default:"1048576" placeholder:"BYTES" help:"How long the body of a request with a key may be (default ${default})."`
}

// answerFlags say what clients get.
type answerFlags struct {
	Profile             string        `default:"draft07" enum:"draft07,stripe" help:"How answers are treated: draft07 keeps 2xx, 3xx and most 4xx, stripe keeps all of the upstream's (default ${default})."`
	Wait                time.Duration `help:"How long duplicates wait for the first one's answer, instead of getting 409 at once."`
	MaxAnswer           int           `default:"524288" placeholder:"BYTES" help:"How long an answer's body may be to be kept (default ${default})."`
	WriteTimeout        time.Duration `default:"30s" help:"How long a client may take for the next 32 KiB of an answer that is too long to be kept, or an event stream (default ${default})."`
	HoldStreams         bool          `help:"Hold event streams back until they end, and keep them."`
	PassWhenUnavailable bool          `help:"Let requests through while Redis is away; they may take effect twice."`
	Detach              bool          `default:"true" negatable:"" help:"Carry a request to its end when its client has gone. With --no-detach it is broken off, and a retry runs it again."`
	Quarantine          bool          `help:"Do not run a request again that ended without an outcome with this process, or its lease, until somebody has settled it."`
	ProblemBase         string        `placeholder:"URI" help:"The page that describes the problems; each one's type is a fragment of it."`
	DescribedBy         string        `placeholder:"URI" help:"The page that says how keys work here, for a Link header of problems."`
}

// storeFlags say where and how answers are kept.
type storeFlags struct {
	Redis                string        `env:"COORDCTL_REDIS" placeholder:"URL" help:"Where Redis is, as for load; without it answers are kept in this process."`
	Cluster              bool          `help:"The one address given is a node of a cluster."`
	RedisTimeout         time.Duration `default:"5s" help:"How long Redis may be tried for one call (default ${default})."`
	Prefix               string        `placeholder:"TEXT" help:"What names in Redis begin with (default coord)."`
	Lease                time.Duration `help:"How long a key is blocked after a crash of this proxy (default 30s)."`
	MaxLifetime          time.Duration `help:"How long a request may run; then its lease ends, and a retry runs it again (default 1h)."`
	Retention            time.Duration `help:"How long answers are kept (default 24h)."`
	Compress             *int          `placeholder:"BYTES" help:"Compress answers that are longer than this."`
	EncryptionKeys       string        `placeholder:"FILE" help:"Encrypt answers. Each line is a name and 32 bytes in base64; the first is used from now on."`
	EncryptionAllowPlain bool          `help:"Replay answers that were stored before they were encrypted."`
}

// options are the flags as coordhttp takes them.
func (p *proxyCommand) options() ([]coordhttp.Option, error) {
	tenant, err := p.Tenants.option()
	if err != nil {
		return nil, err
	}
	opts := append(p.Keys.options(), tenant)
	opts = append(opts, p.Answers.options()...)
	stored, err := p.Store.options()
	return append(opts, stored...), err
}

func (f *keyFlags) options() []coordhttp.Option {
	opts := []coordhttp.Option{coordhttp.MaxBody(f.MaxBody)}
	add := func(given bool, opt func() coordhttp.Option) {
		if given {
			opts = append(opts, opt())
		}
	}
	add(f.RequireKey, coordhttp.RequireKey)
	add(f.QuotedOnly, coordhttp.QuotedOnly)
	add(f.AnyAge, coordhttp.AnyAge)
	add(f.CanonicalJSON, coordhttp.CanonicalJSON)
	add(f.Header != "", func() coordhttp.Option { return coordhttp.Header(f.Header) })
	add(f.UUIDOnly, func() coordhttp.Option { return coordhttp.ValidateKey(coordhttp.UUIDOnly) })
	add(len(f.Methods) > 0, func() coordhttp.Option { return coordhttp.Methods(f.Methods...) })
	add(len(f.FingerprintHeaders) > 0, func() coordhttp.Option { return coordhttp.FingerprintHeaders(f.FingerprintHeaders...) })
	return opts
}

func (f *answerFlags) options() []coordhttp.Option {
	opts := []coordhttp.Option{coordhttp.WithProfile(f.profile()), coordhttp.Wait(f.Wait), coordhttp.MaxAnswer(f.MaxAnswer), coordhttp.WriteTimeout(f.WriteTimeout)}
	if f.HoldStreams {
		opts = append(opts, coordhttp.HoldStreams())
	}
	if f.PassWhenUnavailable {
		opts = append(opts, coordhttp.PassWhenUnavailable())
	}
	if f.Quarantine {
		opts = append(opts, coordhttp.Quarantine())
	}
	if f.Detach {
		opts = append(opts, coordhttp.DetachHandler())
	}
	if f.ProblemBase != "" {
		opts = append(opts, coordhttp.ProblemBase(f.ProblemBase))
	}
	if f.DescribedBy != "" {
		opts = append(opts, coordhttp.DescribedBy(f.DescribedBy))
	}
	return opts
}

func (f *answerFlags) profile() coordhttp.Profile {
	if f.Profile == "stripe" {
		return coordhttp.Stripe()
	}
	return coordhttp.Draft07()
}

func (f *storeFlags) options() ([]coordhttp.Option, error) {
	var opts []coordhttp.Option
	if f.Compress != nil {
		opts = append(opts, coordhttp.Compress(*f.Compress))
	}
	switch {
	case f.EncryptionKeys != "":
		e, err := readEncryption(f.EncryptionKeys)
		if err != nil {
			return nil, fmt.Errorf("--encryption-keys: %w", err)
		}
		e.AllowPlain = f.EncryptionAllowPlain
		opts = append(opts, coordhttp.Encrypt(e))
	case f.EncryptionAllowPlain:
		return nil, errors.New("--encryption-allow-plain goes with --encryption-keys; give both, or leave it out")
	}
	return opts, nil
}

// headroom is what an answer's header and trailer may take beside its body.
const headroom = 512 << 10

func (p *proxyCommand) coordinatorOptions(m *metrics) []coordinator.Option {
	opts := []coordinator.Option{
		coordinator.WithObserver(m.observer), coordinator.WithTimeout(p.Store.RedisTimeout),
		coordinator.WithMaxPayload(max(p.Answers.MaxAnswer, 0) + headroom),
	}
	if p.Store.Prefix != "" {
		opts = append(opts, coordinator.WithPrefix(p.Store.Prefix))
	}
	if p.Store.Lease != 0 {
		opts = append(opts, coordinator.WithLease(p.Store.Lease))
	}
	if p.Store.MaxLifetime != 0 {
		opts = append(opts, coordinator.WithMaxLifetime(p.Store.MaxLifetime))
	}
	if p.Store.Retention != 0 {
		opts = append(opts, coordinator.WithRetention(p.Store.Retention))
	}
	return opts
}

// readEncryption reads a file of keys. Its errors show no key.
func readEncryption(file string) (coordhttp.Encryption, error) {
	e := coordhttp.Encryption{Keys: map[string][]byte{}}
	text, err := os.ReadFile(file)
	if err != nil {
		return e, err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return e, fmt.Errorf("%s:%d: write a name, a space and 32 bytes in base64", file, n)
		}
		key, err := base64.StdEncoding.DecodeString(fields[1])
		if err != nil || len(key) != 32 {
			return e, fmt.Errorf("%s:%d: the key is not 32 bytes in base64; openssl rand -base64 32 makes one", file, n)
		}
		if e.Keys[fields[0]] != nil {
			return e, fmt.Errorf("%s:%d: the name %q is there already; give every key its own", file, n, fields[0])
		}
		if e.Keys[fields[0]] = key; e.Current == "" {
			e.Current = fields[0]
		}
	}
	if e.Current == "" {
		return e, fmt.Errorf("%s has no key; write a name, a space and 32 bytes in base64", file)
	}
	return e, lines.Err()
}
