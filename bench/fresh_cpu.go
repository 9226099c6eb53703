package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// nameCPU is the figure of row 3.
const nameCPU = "fresh_cpu_ratio"

const sameFreshCPU = `Both sides send the same number of pipelines of one length over as many fresh keys to an empty server, and the server's
own CPU time is read from INFO cpu. The bare pair is SET NX PX of an owner and SET PX of the result: the least that two writes can cost. It has no token, no
fingerprint, no check that the one who completes still holds the key. Completions are sent as the library encodes them, in pipelines, because the bare pair is.`

// freshCPU is row 3. It compares the server's time for a fresh claim and its completion with that for the bare commands. Both
// sides send pipelines of one length over as many keys to an empty server, in turns, and the server itself says how
// much time it took: its process, by which the target is judged, and its commands alone, which leaves out
// reading and answering.
//
// The ratio depends on what both sides share. The longer the pipeline, the less reading and answering
// hides the difference; the more keys, the more both wait for memory. So a round is many keys, as
// a server in use has them, and pipelines are long.
func (l *lab) freshCPU(ctx context.Context) ([]figure, error) {
	if _, _, err := l.sides(ctx, 0, l.pipeline); err != nil { // warms up
		return nil, err
	}
	var process, commands, claim, complete, bare, ours []float64
	for round := range l.rounds {
		l.progress.step("round %d of %d", round+1, l.rounds)
		lib, set, err := l.sides(ctx, round, l.keys)
		if err != nil {
			return nil, err
		}
		process = append(process, lib.process/set.process)
		commands = append(commands, (lib.claim+lib.complete)/(set.claim+set.complete))
		claim = append(claim, lib.claim)
		complete = append(complete, lib.complete)
		ours = append(ours, lib.process)
		bare = append(bare, set.process)
	}
	const micros = "µs"
	return []figure{
		figureOf(nameCPU, "Redis CPU of the two, against SET NX PX and SET PX", "times", process).atMost(3.5),
		figureOf("command_ratio", "the same by the commands' own time", "times", commands),
		figureOf("cpu_micros", "Redis CPU of a claim and its completion", micros, ours),
		figureOf("bare_cpu_micros", "Redis CPU of SET NX PX and SET PX", micros, bare),
		figureOf("claim_micros", "of that in the claim's script", micros, claim),
		figureOf("complete_micros", "of that in the completion's script", micros, complete),
	}, nil
}

// spent is the server's time for one record, in µs.
type spent struct {
	process  float64 // of all its threads, in user and kernel mode
	claim    float64 // of the commands that claimed, by commandstats
	complete float64 // of those that completed
}

// sides measures both sides once; which one goes first alternates.
func (l *lab) sides(ctx context.Context, round, keys int) (lib, set spent, err error) {
	for turn := range 2 {
		if (round+turn)%2 == 0 {
			lib, err = l.side(ctx, keys, "evalsha", l.librarySteps())
		} else {
			set, err = l.side(ctx, keys, "set", l.bareSteps())
		}
		if err != nil {
			return lib, set, err
		}
	}
	return lib, set, nil
}

// side claims fresh keys, one pipeline after another, and then completes them. The server is asked only
// three times, so that the asking costs nothing that shows.
func (l *lab) side(ctx context.Context, keys int, command string, do steps) (spent, error) {
	var at []clocks
	err := l.fill(ctx, keys, do, func() error {
		now, err := l.clocks(ctx, command)
		at = append(at, now)
		return err
	})
	if err != nil {
		return spent{}, err
	}
	n := float64(keys)
	return spent{
		process:  (at[2].process - at[0].process) / n,
		claim:    (at[1].command - at[0].command) / n,
		complete: (at[2].command - at[1].command) / n,
	}, nil
}

// clocks are what the server has used up so far, in µs.
type clocks struct{ process, command float64 }

func (l *lab) clocks(ctx context.Context, command string) (now clocks, err error) {
	if now.process, err = l.serverCPU(ctx); err != nil {
		return now, err
	}
	text, err := l.plain.Info(ctx, "commandstats").Result()
	if err != nil {
		return now, err
	}
	if stats, used := infoField(text, "cmdstat_"+command); used { // calls=1,usec=2,…
		_, rest, _ := strings.Cut(stats, "usec=")
		micros, _, _ := strings.Cut(rest, ",")
		if now.command, err = strconv.ParseFloat(micros, 64); err != nil {
			return now, fmt.Errorf("INFO commandstats: %q: %w", stats, err)
		}
	}
	return now, nil
}
