// A source in Go: the seconds since it was built to run, one sample each time. `go build clock.go`, or `go run clock.go`.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strconv"
	"time"
)

type start struct {
	Config struct {
		Every float64 `json:"every"`
	} `json:"config"`
	Positions map[string]string `json:"positions"`
}

type sample struct {
	Tag   string `json:"tag"`
	Value int    `json:"value"`
}

type batch struct {
	Type     string            `json:"type"`
	ID       int               `json:"id"`
	Samples  []sample          `json:"samples"`
	Position map[string]string `json:"position"`
}

func main() {
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	var begin start
	if !in.Scan() || json.Unmarshal(in.Bytes(), &begin) != nil {
		os.Exit(1)
	}
	go func() {
		// What is synced is told here; the end of it, or "stop", ends the program.
		for in.Scan() {
			var message struct{ Type string }
			if json.Unmarshal(in.Bytes(), &message) == nil && message.Type == "stop" {
				break
			}
		}
		os.Exit(0)
	}()
	out.Encode(map[string]string{"type": "ready"})
	count, _ := strconv.Atoi(begin.Positions["count"])
	every := time.Duration(begin.Config.Every * float64(time.Second))
	if every <= 0 {
		every = time.Second
	}
	for {
		count++
		position := map[string]string{"count": strconv.Itoa(count)}
		out.Encode(batch{"batch", count, []sample{{"ticks", count}}, position})
		time.Sleep(every)
	}
}
