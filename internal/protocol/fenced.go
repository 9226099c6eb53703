package protocol

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Encodable takes a copy of what the caller may change after the call has returned, and refuses what it cannot send. It
// counts from 1, as a script does its ARGV; with Fence.Do's command in front and its key left out, as Fence.Do does.
func Encodable(args []any) ([]any, error) {
	out := make([]any, len(args))
	for i, arg := range args {
		switch a := arg.(type) {
		case nil, string, bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, time.Time, time.Duration:
			out[i] = a
		case []byte:
			out[i] = bytes.Clone(a)
		case encoding.BinaryMarshaler:
			data, err := a.MarshalBinary()
			if err != nil {
				return nil, fmt.Errorf("argument %d does not encode: %w", i+1, err)
			}
			out[i] = data
		default:
			return nil, fmt.Errorf("argument %d is a %T; make it a string, a number or bytes", i+1, arg)
		}
	}
	return out, nil
}

// fenced are the commands that Fence.Do takes: those with exactly one key, which comes first, that neither block nor
// run other commands. The number is how many arguments they may have behind the key, -1 for any.
var fenced = map[string]int{
	"append": -1, "bitcount": -1, "bitfield": -1, "bitpos": -1, "decr": 0, "decrby": -1, "del": 0, "exists": 0,
	"expire": -1, "expireat": -1, "expiretime": 0, "geoadd": -1, "geodist": -1, "geohash": -1, "geopos": -1,
	"geosearch": -1, "get": 0, "getbit": -1, "getdel": 0, "getex": -1, "getrange": -1, "getset": -1, "hdel": -1,
	"hexists": -1, "hget": -1, "hgetall": 0, "hincrby": -1, "hincrbyfloat": -1, "hkeys": 0, "hlen": 0, "hmget": -1,
	"hmset": -1, "hscan": -1, "hset": -1, "hsetnx": -1, "hstrlen": -1, "hvals": 0, "incr": 0, "incrby": -1,
	"incrbyfloat": -1, "lindex": -1, "linsert": -1, "llen": 0, "lpop": -1, "lpos": -1, "lpush": -1, "lpushx": -1,
	"lrange": -1, "lrem": -1, "lset": -1, "ltrim": -1, "persist": 0, "pexpire": -1, "pexpireat": -1,
	"pexpiretime": 0, "pfadd": -1, "pfcount": 0, "psetex": -1, "pttl": 0, "rpop": -1, "rpush": -1, "rpushx": -1,
	"sadd": -1, "scard": 0, "set": -1, "setbit": -1, "setex": -1, "setnx": -1, "setrange": -1, "sismember": -1,
	"smembers": 0, "smismember": -1, "spop": -1, "srandmember": -1, "srem": -1, "strlen": 0, "touch": 0, "ttl": 0,
	"type": 0, "unlink": 0, "xack": -1, "xadd": -1, "xdel": -1, "xlen": 0, "xrange": -1, "xrevrange": -1,
	"xtrim": -1, "zadd": -1, "zcard": 0, "zcount": -1, "zincrby": -1, "zlexcount": -1, "zmscore": -1,
	"zpopmax": -1, "zpopmin": -1, "zrange": -1, "zrangebylex": -1, "zrangebyscore": -1, "zrank": -1, "zrem": -1,
	"zremrangebylex": -1, "zremrangebyrank": -1, "zremrangebyscore": -1, "zrevrange": -1, "zrevrank": -1, "zscore": -1,
}

// mostFencedArgs is what Lua can unpack onto its stack, with room to spare.
const mostFencedArgs = 7000

// CommandKey is the key of a command for the fence; it refuses what is none.
func CommandKey(args []any) (string, error) {
	if len(args) < 2 {
		return "", errors.New("Fence.Do takes a command and its key")
	}
	name, ok := args[0].(string)
	most, known := fenced[strings.ToLower(name)]
	if !ok || !known {
		return "", fmt.Errorf("Fence.Do does not take the command %.40q: it takes data commands with one key, which comes first; use Fence.Eval for others", fmt.Sprint(args[0]))
	}
	if behind := len(args) - 2; most >= 0 && behind > most || behind > mostFencedArgs {
		return "", fmt.Errorf("Fence.Do takes one key, and at most %d arguments; split the call", mostFencedArgs)
	}
	switch key := args[1].(type) {
	case string:
		return key, nil
	case []byte:
		return string(key), nil
	}
	return "", fmt.Errorf("the key of a fenced command is a string, not %T", args[1])
}
