package coordgrpc_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordgrpc"
)

// charges is a service; a program has one of its own.
type charges struct {
	testpb.UnimplementedTestServiceServer
	made int
}

func (c *charges) UnaryCall(_ context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if string(r.GetPayload().GetBody()) == "nothing" {
		return nil, status.Error(codes.NotFound, "no such account")
	}
	c.made++
	return &testpb.SimpleResponse{Username: fmt.Sprint("charge ", c.made)}, nil
}

// A charge is made once, however often its call is sent.
func ExampleNew() {
	server, err := miniredis.Run() // a program has a Redis of its own
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	c, err := coordinator.New(rdb)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	once, err := coordgrpc.New(c,
		coordgrpc.Tenant(func(context.Context, string) (string, error) { return "acme", nil }), // what authentication has found
		coordgrpc.Methods("/grpc.testing.TestService/UnaryCall"))
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer(grpc.ChainUnaryInterceptor(once.Unary()), grpc.ChainStreamInterceptor(once.Stream()))
	defer s.Stop()
	testpb.RegisterTestServiceServer(s, &charges{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = s.Serve(listener) }()

	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor((&coordgrpc.Client{}).Unary()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	client := testpb.NewTestServiceClient(conn)
	for _, call := range [][2]string{{"order-17", "10 EUR"}, {"order-17", "10 EUR"}, {"order-17", "20 EUR"}, {"order-18", "nothing"}, {"order-18", "nothing"}} {
		var header metadata.MD
		ctx := coordgrpc.WithKey(context.Background(), call[0]) // without it, a new UUIDv7
		r, err := client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(call[1])}}, grpc.Header(&header))
		fmt.Printf("%q %v %s replayed: %q\n", r.GetUsername(), status.Code(err), coordgrpc.ReasonOf(err), header.Get(coordgrpc.ReplayedMetadata))
	}
	// Output:
	// "charge 1" OK  replayed: []
	// "charge 1" OK  replayed: ["true"]
	// "" FailedPrecondition KEY_REUSED replayed: []
	// "" NotFound  replayed: []
	// "" NotFound  replayed: ["true"]
}
