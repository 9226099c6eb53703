package pgtest

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"
)

// greeted asks for TLS, which every PostgreSQL answers in one byte: it takes connections.
func greeted(t *testing.T, s *Server) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := binary.BigEndian.AppendUint32(nil, 8)
	if _, err := conn.Write(binary.BigEndian.AppendUint32(request, 80877103)); err != nil {
		t.Fatal(err)
	}
	if answer, err := bufio.NewReader(conn).ReadByte(); err != nil || answer != 'N' {
		t.Fatalf("answer %q, %v", answer, err)
	}
}

func TestServerLivesThroughKills(t *testing.T) {
	s := Run(t)
	greeted(t, s)
	for range 3 {
		s.Kill()
		// A child that had just been forked may have the socket until it has closed its copy, or noticed.
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			conn, err := net.Dial("tcp", s.Addr())
			if err != nil {
				break
			}
			conn.Close()
			if time.Now().After(end) {
				t.Fatal("a killed server takes connections")
			}
		}
		if err := s.Restart(context.Background()); err != nil {
			t.Fatal(err)
		}
		greeted(t, s)
	}
	s.Stop()
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("its files are still there: %v", err)
	}
	s.Stop()
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	Need(t)
	if s, err := Start(context.Background(), "no_such_setting=1"); err == nil {
		s.Stop()
		t.Error("a setting that does not exist is taken")
	} else {
		t.Log(err)
	}
}
