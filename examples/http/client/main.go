// Client charges once for each order, however often it is started: the key is in a file before the first try.
//
//	go run ./examples/http/payments &
//	go run ./examples/http/client order-17.key 1000
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/onceward/coordinator/coordhttp"
)

// keyIn returns the key in a file, and makes both where there is none. Give each operation a file of its own.
func keyIn(file string) (string, error) {
	stored, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err // a new key could charge twice
	}
	if key := string(stored); uuid.Validate(key) == nil {
		return key, nil
	}
	// There is none, or one that was cut off while it was written: before the first try, so that nothing is lost with it.
	key, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	return key.String(), write(file, key.String())
}

// write returns when the text is on disk.
func write(file, text string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// charge sends the same request with the same key on every run. Only the answer to the whole tells whether to forget the key.
func charge(ctx context.Context, client *http.Client, url, file, cents string) (string, error) {
	key, err := keyIn(file)
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(coordhttp.WithKey(ctx, key), http.MethodPost, url, strings.NewReader(`{"cents":`+cents+`}`))
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer token-of-acme")
	r.Header.Set("Content-Type", "application/json")
	response, err := client.Do(r)
	if err != nil {
		return "", err // it may have been charged: run again, with the same file
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	return strings.TrimSpace(string(text)), err
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: client file cents")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := &http.Client{Transport: &coordhttp.Transport{}} // makes keys, where WithKey gives none, and retries
	receipt, err := charge(ctx, client, "http://127.0.0.1:8080/charges", os.Args[1], os.Args[2])
	fmt.Println(receipt, "error:", err)
}
