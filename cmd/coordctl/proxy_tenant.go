package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/onceward/coordinator/coordhttp"
)

// tenantFlags say whose answers are whose. There is no default: where answers of one client are replayed to another, nobody
// else looks, since a replay does not reach the upstream.
type tenantFlags struct {
	SingleTenant   bool   `help:"All clients may see each other's answers."`
	TenantHeader   string `placeholder:"NAME" help:"The header that names the tenant. What stands in front must set it, and remove a client's own."`
	TenantJWTClaim string `name:"tenant-jwt-claim" placeholder:"NAME" help:"The claim of the bearer token that names the tenant, such as sub. Tokens are verified."`
	JWTKey         string `name:"jwt-key" placeholder:"FILE" help:"The public key that tokens are signed for, in PEM: RSA, ECDSA or Ed25519."`
	JWTSecret      string `name:"jwt-secret" placeholder:"FILE" help:"The secret that tokens are signed with by HMAC, 32 bytes or more; a line end at its end is left out."`
	JWTAudience    string `name:"jwt-audience" placeholder:"TEXT" help:"The audience that tokens must be for."`
	JWTIssuer      string `name:"jwt-issuer" placeholder:"TEXT" help:"The issuer that tokens must be from."`
}

func (f *tenantFlags) check() error {
	given := 0
	for _, is := range []bool{f.SingleTenant, f.TenantHeader != "", f.TenantJWTClaim != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return errors.New("say whose answers are whose, by exactly one of --single-tenant, --tenant-header and --tenant-jwt-claim")
	}
	switch key, secret := f.JWTKey != "", f.JWTSecret != ""; {
	case f.TenantJWTClaim != "" && key == secret:
		return errors.New("--tenant-jwt-claim takes exactly one of --jwt-key and --jwt-secret, to verify tokens with")
	case f.TenantJWTClaim == "" && (key || secret || f.JWTAudience != "" || f.JWTIssuer != ""):
		return errors.New("the flags --jwt-... go with --tenant-jwt-claim; leave them out")
	}
	return nil
}

// carrier is the header that has the tenant; empty where there is none.
func (f *tenantFlags) carrier() string {
	if f.TenantJWTClaim != "" {
		return "Authorization"
	}
	return f.TenantHeader
}

func (f *tenantFlags) option() (coordhttp.Option, error) {
	switch {
	case f.SingleTenant:
		return coordhttp.SingleTenant(), nil
	case f.TenantHeader != "":
		return coordhttp.Tenant(func(r *http.Request) (string, error) { return only(r.Header, f.TenantHeader) }), nil
	}
	v, err := f.verifier()
	if err != nil {
		return nil, err
	}
	return coordhttp.Tenant(v.tenant), nil
}

// only returns a header that comes once: of two, the upstream may take the other one.
func only(h http.Header, name string) (string, error) {
	if values := h.Values(name); len(values) != 1 {
		return "", fmt.Errorf("the header %s comes %d times", name, len(values))
	}
	return h.Get(name), nil
}

// verifier takes the tenant from tokens that are signed with its key.
type verifier struct {
	claim  string
	key    any
	parser *jwt.Parser
}

func (f *tenantFlags) verifier() (*verifier, error) {
	name, file, read := "--jwt-key", f.JWTKey, publicKey
	if file == "" {
		name, file, read = "--jwt-secret", f.JWTSecret, secretKey
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	key, algorithms, err := read(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", name, file, err)
	}
	opts := []jwt.ParserOption{jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired()}
	if f.JWTAudience != "" {
		opts = append(opts, jwt.WithAudience(f.JWTAudience))
	}
	if f.JWTIssuer != "" {
		opts = append(opts, jwt.WithIssuer(f.JWTIssuer))
	}
	return &verifier{claim: f.TenantJWTClaim, key: key, parser: jwt.NewParser(opts...)}, nil
}

func (v *verifier) tenant(r *http.Request) (string, error) {
	header, err := only(r.Header, "Authorization")
	if err != nil {
		return "", err
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", errors.New("there is no bearer token")
	}
	claims := jwt.MapClaims{}
	if _, err := v.parser.ParseWithClaims(strings.TrimSpace(token), claims, func(*jwt.Token) (any, error) { return v.key, nil }); err != nil {
		return "", err
	}
	tenant, is := claims[v.claim].(string)
	if !is {
		return "", fmt.Errorf("the token has no claim %s, or one that is not a string", v.claim)
	}
	return tenant, nil
}

// publicKey returns a key and the algorithms that are for it: a token does not choose how it is verified.
func publicKey(text []byte) (any, []string, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, errors.New("it is not PEM; openssl pkey -in private.pem -pubout writes what is needed")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("it is not a public key; openssl pkey -in private.pem -pubout writes one: %w", err)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key, []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, nil
	case *ecdsa.PublicKey:
		if algorithm, known := curves[key.Params().Name]; known {
			return key, []string{algorithm}, nil
		}
	case ed25519.PublicKey:
		return key, []string{"EdDSA"}, nil
	}
	return nil, nil, fmt.Errorf("a key of this kind (%T) signs no tokens; use RSA, ECDSA on P-256, P-384 or P-521, or Ed25519", key)
}

var curves = map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

const leastSecret = 32 // bytes; RFC 7518 asks for as many as the hash has

func secretKey(text []byte) (any, []string, error) {
	secret := strings.TrimRight(string(text), "\r\n")
	if strings.HasPrefix(secret, "-----BEGIN ") {
		return nil, nil, errors.New("it is a key in PEM; a public key goes with --jwt-key")
	}
	if len(secret) < leastSecret {
		return nil, nil, fmt.Errorf("the secret has %d bytes; it takes %d or more, such as openssl rand -hex 32 makes", len(secret), leastSecret)
	}
	return []byte(secret), []string{"HS256", "HS384", "HS512"}, nil
}
