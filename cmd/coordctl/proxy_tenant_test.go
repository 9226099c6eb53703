package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/onceward/coordinator/coordhttp"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func publicPEM(key any) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))}))
}

// signed makes a bearer token for a tenant; its claims override what is usual.
func signed(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	all := jwt.MapClaims{"org": "acme", "exp": time.Now().Add(time.Hour).Unix()}
	for name, value := range claims {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return "Bearer " + must(jwt.NewWithClaims(method, all).SignedString(key))
}

func TestProxyJWT(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, _ := ed25519.GenerateKey(rand.Reader)
	public := publicPEM(key.Public())
	up := newCounter(t, nil)
	p := startProxy(t, up.URL, "--tenant-jwt-claim", "org", "--jwt-key", file(t, public), "--jwt-audience", "pay", "--jwt-issuer", "us")
	for name, claims := range map[string]jwt.MapClaims{
		"acme":   {"aud": "pay", "iss": "us"},
		"others": {"aud": []string{"x", "pay"}, "iss": "us", "org": "others"},
	} {
		first := post(t, p.url, name, "Idempotency-Key", "k", "Authorization", signed(jwt.SigningMethodEdDSA, key, claims))
		again := post(t, p.url, name, "Idempotency-Key", "k", "Authorization", signed(jwt.SigningMethodEdDSA, key, claims))
		if first.status != http.StatusCreated || first.body != again.body || !again.replayed() {
			t.Errorf("%s: %+v, then %+v", name, first, again)
		}
	}
	up.ran(t, 2)
	good := signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "pay", "iss": "us"})
	for name, header := range map[string]string{
		"expired":        signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "pay", "iss": "us", "exp": time.Now().Add(-time.Second).Unix()}),
		"without expiry": signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "pay", "iss": "us", "exp": nil}),
		"not yet":        signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "pay", "iss": "us", "nbf": time.Now().Add(time.Hour).Unix()}),
		"wrong audience": signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "mail", "iss": "us"}),
		"wrong issuer":   signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "pay", "iss": "them"}),
		"wrong key":      signed(jwt.SigningMethodEdDSA, foreign, jwt.MapClaims{"aud": "pay", "iss": "us"}),
		"alg none":       signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"aud": "pay", "iss": "us"}),
		"public as HMAC": signed(jwt.SigningMethodHS256, []byte(public), jwt.MapClaims{"aud": "pay", "iss": "us"}),
		"without claim":  signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "pay", "iss": "us", "org": nil}),
		"empty claim":    signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "pay", "iss": "us", "org": ""}),
		"number":         signed(jwt.SigningMethodEdDSA, key, jwt.MapClaims{"aud": "pay", "iss": "us", "org": 7}),
		"changed":        good[:len(good)-8] + "AAAAAAAA",
		"not bearer":     "Basic " + strings.TrimPrefix(good, "Bearer "),
		"nonsense":       "Bearer nonsense",
		"missing":        "",
	} {
		fields := []string{"Idempotency-Key", "k"}
		if header != "" {
			fields = append(fields, "Authorization", header)
		}
		if got := post(t, p.url, "acme", fields...); got.status != http.StatusForbidden || got.kind(t) != string(coordhttp.KindTenantUnknown) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := post(t, p.url, "acme", "Idempotency-Key", "k", "Authorization", good, "Authorization", good); got.status != http.StatusForbidden {
		t.Errorf("two tokens: %+v", got)
	}
	up.ran(t, 2)
}

// Each kind of key takes tokens of its own algorithms, and no others.
func TestProxyJWTKeys(t *testing.T) {
	secret := []byte(strings.Repeat("s", leastSecret))
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	p256, p384 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tokens := map[string]string{
		"HS256": signed(jwt.SigningMethodHS256, secret, nil), "HS512": signed(jwt.SigningMethodHS512, secret, nil),
		"RS256": signed(jwt.SigningMethodRS256, rsaKey, nil), "PS384": signed(jwt.SigningMethodPS384, rsaKey, nil),
		"ES256": signed(jwt.SigningMethodES256, p256, nil), "ES384": signed(jwt.SigningMethodES384, p384, nil),
		"EdDSA": signed(jwt.SigningMethodEdDSA, ed, nil),
	}
	pems := func(key crypto.Signer) tenantFlags { return tenantFlags{JWTKey: file(t, publicPEM(key.Public()))} }
	for _, test := range []struct {
		flags tenantFlags
		takes string
	}{
		{tenantFlags{JWTSecret: file(t, string(secret)+"\n")}, "HS256 HS512"},
		{pems(rsaKey), "RS256 PS384"}, {pems(p256), "ES256"}, {pems(p384), "ES384"}, {pems(ed), "EdDSA"},
	} {
		test.flags.TenantJWTClaim = "org"
		v, err := test.flags.verifier()
		if err != nil {
			t.Fatal(err)
		}
		for algorithm, token := range tokens {
			tenant, err := v.tenant(&http.Request{Header: http.Header{"Authorization": {token}}})
			if takes := strings.Contains(test.takes, algorithm); takes != (err == nil && tenant == "acme") {
				t.Errorf("a key for %s, a token with %s: %q, %v", test.takes, algorithm, tenant, err)
			}
		}
	}
}

func TestProxyJWTRefusesKeys(t *testing.T) {
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(p224))})
	for _, test := range []struct{ flag, text, says string }{
		{"--jwt-key", "secret", "not PEM"},
		{"--jwt-key", string(private), "not a public key"},
		{"--jwt-key", publicPEM(p224.Public()), "signs no tokens"},
		{"--jwt-secret", "secret", "32 or more"},
		{"--jwt-secret", publicPEM(p224.Public()), "--jwt-key"},
	} {
		got := invoke(t.Context(), "proxy", "--upstream", "http://127.0.0.1:9", "--listen", "127.0.0.1:0", "--tenant-jwt-claim", "org", test.flag, file(t, test.text))
		if got.status != exitFailed || !strings.Contains(got.err, test.says) || strings.Contains(got.err, "listens") {
			t.Errorf("%s: %+v", test.says, got)
		}
	}
	if got := invoke(t.Context(), "proxy", "--upstream", "http://127.0.0.1:9", "--tenant-jwt-claim", "org", "--jwt-key", "/no/such/file"); got.status != exitFailed {
		t.Errorf("%+v", got)
	}
}
