//go:build unix

package bridge

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// The test binary run again with FAKE_WORKER set is a worker with one fault. It is for faults only:
// what a healthy worker does is tested with the real one.

const fakeVariable = "FAKE_WORKER"

func TestMain(m *testing.M) {
	if fault := os.Getenv(fakeVariable); fault != "" {
		runFake(fault)
		os.Exit(0)
	}
	if os.Getenv(guardedVariable) != "" {
		runGuarded()
	}
	if dir := os.Getenv(orphanVariable); dir != "" {
		runOrphanMaker(dir)
	}
	testenv.Main(m)
}

// fakeCommand starts the test binary as a worker with a fault. A program with the race detector would sleep for a second before it ends.
func fakeCommand(fault string, env ...string) command {
	return command{name: os.Args[0], env: append(append(os.Environ(), fakeVariable+"="+fault, "GORACE=atexit_sleep_ms=0"), env...)}
}

// stall is the StallTimeout of tests in which a worker hangs, or works for longer than that: what a busy machine takes to start a process or
// to wake one up is far from it.
const stall = 8 * time.Second

// forLong does something again and again for longer than stall.
func forLong(each time.Duration, do func(i int)) {
	for i, end := 0, time.Now().Add(stall+stall/4); time.Now().Before(end); i++ {
		do(i)
		time.Sleep(each)
	}
}

// onceVariable names a file: a fault that is to happen once makes it, and does not happen if it is there.
const onceVariable = "FAKE_ONCE"

// weightsVariable names a file whose content is the fingerprint of what a worker loads.
const weightsVariable = "FAKE_WEIGHTS"

func firstTime() bool {
	f, err := os.OpenFile(os.Getenv(onceVariable), os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// mayEnd is the file that the worker "ends when it may" waits for. Each has its own, so that the next one waits for the test again.
func mayEnd(path string, pid int) string { return fmt.Sprint(path, ".", pid) }

// told is the file that the worker "tells its load" waits for before it goes on: what it told has arrived.
func told(path string, done int64) string { return fmt.Sprint(path, ".", done) }

// beginnersVariable is how many workers "dies of poison" load at once, if it is set; the later ones wait for the file later.
const beginnersVariable = "FAKE_BEGINNERS"

func later(path string) string { return path + ".later" }

// beginner takes a place among these.
func beginner() bool {
	n, _ := strconv.Atoi(os.Getenv(beginnersVariable))
	for i := range n {
		if f, err := os.OpenFile(fmt.Sprint(os.Getenv(onceVariable), ".", i), os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			return f.Close() == nil
		}
	}
	return false
}

func awaitFile(path string) {
	for _, err := os.Stat(path); err != nil; _, err = os.Stat(path) {
		time.Sleep(time.Millisecond)
	}
}

type fields map[string]any

func reply(m fields) {
	if err := writeFrame(os.Stdout, m); err != nil {
		os.Exit(9)
	}
}

func hello(protocol int) {
	found := fields{"protocol": protocol, "mlx": WantMLX, "mlx_lm": WantMLXLM}
	if os.Getenv(fakeVariable) == "old mlx-lm" {
		found["mlx_lm"] = "0.20.1"
	}
	reply(fields{"t": "hello", "id": 0, "pid": os.Getpid(), "versions": found})
}

func beat(phase string, work int) {
	reply(fields{"t": "beat", "id": 0, "phase": phase, "work": work, "active": 7})
}

func token(id any, text string) fields {
	return fields{"t": "token", "id": id, "token": 1, "text": text}
}

func runFake(fault string) {
	switch fault {
	case "dies at start":
		fmt.Fprintln(os.Stderr, "ModuleNotFoundError: No module named 'mlx_lm'")
		os.Exit(1)
	case "is no worker":
		os.Exit(0)
	case "never says hello":
		time.Sleep(time.Hour)
	case "prints on stdout":
		fmt.Println("Downloading a model: 100%")
		time.Sleep(time.Hour)
	case "starts slowly":
		forLong(100*time.Millisecond, func(int) { fmt.Fprintln(os.Stderr, "still importing") })
	case "old version":
		hello(0)
		time.Sleep(time.Hour)
	case "no hello":
		reply(fields{"t": "token", "id": 1})
		time.Sleep(time.Hour)
	}
	hello(protocolVersion)
	if fault == "ignores SIGTERM" {
		signal.Ignore(syscall.SIGTERM)
	}
	if fault == "exits over a child" {
		// It leaves the group and keeps the pipes.
		child := exec.Command("sleep", "30")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if child.Start() != nil {
			os.Exit(9)
		}
	}
	for {
		m, err := readFake(os.Stdin)
		if fault == "ends when it may" && (err != nil || m["t"] == "shutdown") {
			awaitFile(mayEnd(os.Getenv(onceVariable), os.Getpid()))
			return
		}
		if err != nil {
			if fault == "ignores SIGTERM" {
				time.Sleep(time.Hour)
			}
			return
		}
		serveFake(fault, m)
	}
}

func readFake(r io.Reader) (fields, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	var m fields
	return m, msgpack.Unmarshal(body, &m)
}

// What the worker "dies of poison and tells" has: a request that is none, and the one that is, where that came first.
var (
	innocent bool
	poison   fields
)

func serveFake(fault string, m fields) {
	id := m["id"]
	switch m["t"] {
	case "load":
		switch fault {
		case "dies at load":
			fmt.Fprintln(os.Stderr, "Segmentation fault in the loader")
			os.Exit(139)
		case "load without info":
			reply(fields{"t": "result", "id": id})
			return
		case "second dies at load":
			if !firstTime() {
				os.Exit(139)
			}
		case "waits":
			beat("load", 1)
		case "dies of poison":
			if os.Getenv(beginnersVariable) != "" && !beginner() {
				awaitFile(later(os.Getenv(onceVariable)))
			}
		case "loads for long":
			forLong(100*time.Millisecond, func(i int) { beat("load", i) })
		case "tells its load":
			for i := range 5 {
				reply(fields{"t": "progress", "id": id, "phase": "load", "done": i, "total": 5})
				awaitFile(told(os.Getenv(onceVariable), int64(i)))
			}
		case "hangs in load":
			beat("load", 1)
			time.Sleep(time.Hour)
		}
		weights, _ := os.ReadFile(os.Getenv(weightsVariable))
		reply(fields{"t": "result", "id": id, "info": fields{"architecture": "fake", "vocab_size": 10, "fingerprint": string(weights)}})
	case "shutdown":
		if fault == "healthy" || fault == "default" || fault == "waits" {
			os.Exit(0)
		}
	case "cancel":
		fmt.Fprintln(os.Stderr, "cancelled")
		reply(fields{"t": "cancelled", "id": id, "tokens": 1, "seconds": 0.0})
	case "encode":
		if text, _ := m["text"].(string); fault == "dies of poison" && text == "poison" {
			os.Exit(1)
		} else if fault == "hangs of poison" && text == "poison" {
			time.Sleep(time.Hour)
		}
		reply(fields{"t": "result", "id": id, "ids": []int{1}})
	case "memory":
		reply(fields{"t": "result", "id": id, "active": 7})
	case "generate":
		text, _ := m["text"].(string)
		if fault == "dies of poison and tells" {
			// It dies under both requests, whichever comes first.
			if text == "poison" && !innocent {
				poison = m
				return
			}
			reply(fields{"t": "pass", "id": 0, "requests": []any{id}})
			if text != "poison" {
				innocent = true
				generateFake("waits", id, 0)
				if poison != nil {
					serveFake(fault, poison)
				}
				return
			}
		}
		if fault == "hangs of poison" && text == "poison" {
			reply(fields{"t": "pass", "id": 0, "requests": []any{id}})
			reply(token(id, "one "))
			time.Sleep(time.Hour)
		}
		if strings.HasPrefix(fault, "dies of poison") && text == "poison" {
			fault = "dies in mid-stream"
		}
		resumed, _ := m["resume"].([]any)
		generateFake(fault, id, len(resumed))
	case "embed":
		if fault == "dies at embed once" && firstTime() || fault == "dies at embed" {
			reply(fields{"t": "pass", "id": 0, "requests": []any{id}})
			os.Exit(1)
		}
		if fault == "too few numbers" {
			reply(fields{"t": "result", "id": id, "size": 2, "vectors": []byte{0, 0, 0x80, 0x3f}})
			return
		}
		if fault == "no numbers" {
			reply(fields{"t": "result", "id": id, "size": 1, "vectors": []byte{0, 0, 0xc0, 0x7f}})
			return
		}
		reply(fields{"t": "result", "id": id, "size": 1, "vectors": []byte{0, 0, 0x80, 0x3f}})
	case "classify":
		if fault == "dies at classify once" && firstTime() {
			os.Exit(1)
		}
		if fault == "too few scores" {
			reply(fields{"t": "result", "id": id, "scores": [][]float64{{-1, -2}}})
			return
		}
		reply(fields{"t": "result", "id": id, "scores": [][]float64{{-1}}})
	}
}

func generateFake(fault string, id any, resumed int) {
	switch fault {
	case "dies at prefill":
		reply(fields{"t": "progress", "id": id, "phase": "prefill", "done": 512, "total": 2048})
		os.Exit(1)
	case "tells of its prompt twice":
		for i := range 3 {
			t := token(id, "x ")
			if i != 1 {
				t["prompt_tokens"] = 5
			}
			if i == 2 {
				t["finish"] = "length"
			}
			reply(t)
		}
	case "counts and dies once", "counts and hangs once":
		for i := resumed; i < 10; i++ {
			if i == 4 && firstTime() {
				if fault == "counts and dies once" {
					os.Exit(1)
				}
				beat("decode", 1)
				time.Sleep(time.Hour)
			}
			t := token(id, fmt.Sprint(i, " "))
			if i == 9 {
				t["finish"] = "length"
			}
			reply(t)
		}
		return
	}
	if fault == "second dies at load" {
		time.Sleep(20 * time.Millisecond)
	}
	reply(token(id, "one "))
	switch fault {
	case "dies in mid-stream":
		fmt.Fprintln(os.Stderr, "RuntimeError: out of memory")
		os.Exit(1)
	case "exits over a child":
		os.Exit(1)
	case "dies in mid-write":
		_, _ = os.Stdout.Write([]byte{0, 0, 4, 0, 0x82, 0xa1, 't'})
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "oversize frame":
		_, _ = os.Stdout.Write([]byte{0x7f, 0xff, 0xff, 0xff, 1})
		time.Sleep(time.Hour)
	case "closes its pipes":
		_ = os.Stdout.Close()
		_ = os.Stdin.Close()
		time.Sleep(time.Hour)
	case "no heartbeat":
		beat("decode", 1)
		time.Sleep(time.Hour)
	case "no progress":
		for {
			beat("decode", 1)
			time.Sleep(10 * time.Millisecond)
		}
	case "slow but working":
		forLong(100*time.Millisecond, func(i int) { beat("decode", i) })
		reply(fields{"t": "token", "id": id, "text": "two", "finish": "stop"})
		return
	case "is killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "cuts a frame":
		_, _ = os.Stdout.Write([]byte{0, 0, 0, 50, 1, 2, 3})
		os.Exit(0)
	case "garbage in mid-stream":
		fmt.Print("Traceback (most recent call last):\n")
		time.Sleep(time.Hour)
	case "bad msgpack":
		_, _ = os.Stdout.Write([]byte{0, 0, 0, 3, 0xc1, 0xc1, 0xc1})
		time.Sleep(time.Hour)
	case "sends too much":
		for range 500 {
			reply(token(id, "x"))
		}
		time.Sleep(time.Hour)
	case "unknown message":
		reply(fields{"t": "surprise", "id": id})
		time.Sleep(time.Hour)
	case "result in a stream":
		reply(fields{"t": "result", "id": id})
	case "ends twice":
		for range 3 {
			reply(fields{"t": "token", "id": id, "text": "two", "finish": "stop"})
		}
		return
	case "unknown finish":
		reply(fields{"t": "token", "id": id, "finish": "bored"})
	case "replies to nobody":
		reply(token(77777, "lost"))
		reply(fields{"t": "token", "id": id, "text": "two", "finish": "stop"})
	case "floods stderr":
		line := strings.Repeat("noise ", 200) + "\n"
		for i := range 16800 { // 20 MB
			_, _ = os.Stderr.WriteString(line)
			if i%1000 == 0 { // it is at work, and on a busy machine for longer than a worker may be silent here
				beat("decode", i)
			}
		}
		reply(fields{"t": "token", "id": id, "text": "two", "finish": "stop"})
	case "remote error":
		reply(fields{"t": "error", "id": id, "code": "internal", "message": "ValueError: no", "traceback": "line 1"})
	case "hangs", "ignores SIGTERM", "waits":
	default:
		reply(fields{"t": "token", "id": id, "text": "two", "finish": "stop"})
	}
}
