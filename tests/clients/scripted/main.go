// Scripted serves a model whose answers are a script, behind the real server: tests of agents need a model that does what it
// is told, in contexts longer than a small model has.
//
// A message that says CALL name {arguments} is answered with that call; the result of a call is answered by repeating it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/segment"
	"forge.lthn.ai/core/go-mlx/internal/server"
)

// scripted is a model of which only the generation is replaced.
type scripted struct {
	mlx.TextModel
	marks segment.Marks
}

var wanted = regexp.MustCompile(`CALL (\w+) (\{[^\n]*\})`)

// reply is what the script answers to a chat.
func reply(messages []mlx.Message) string {
	call, result := "", ""
	for _, m := range messages {
		if found := wanted.FindAllStringSubmatch(m.Content, -1); m.Role == "user" && found != nil {
			last := found[len(found)-1]
			if !json.Valid([]byte(last[2])) { // some programs quote what they are told
				last[2] = strings.ReplaceAll(last[2], `\"`, `"`)
			}
			call, result = fmt.Sprintf("<tool_call>\n{\"name\": %q, \"arguments\": %s}\n</tool_call>", last[1], last[2]), ""
		}
		if m.Role == "tool" {
			result = "The tool says: " + m.Content
		}
	}
	switch {
	case result != "":
		return "<think>\nIt is there.\n</think>\n\n" + result
	case call != "":
		return "<think>\nI look it up.\n</think>\n\n" + call
	}
	return "Nothing to do."
}

// Chat streams the reply in small pieces.
func (m scripted) Chat(ctx context.Context, messages []mlx.Message, _ ...mlx.GenerateOption) iter.Seq2[mlx.Token, error] {
	return func(yield func(mlx.Token, error) bool) {
		splitter := segment.NewSplitter(m.marks, false)
		text := reply(messages)
		for text != "" {
			if err := ctx.Err(); err != nil {
				yield(mlx.Token{}, err)
				return
			}
			n := min(7, len(text))
			tok := mlx.Token{ID: 3, Text: text[:n]}
			if text = text[n:]; text == "" {
				tok.FinishReason, tok.PromptTokens = mlx.FinishStop, 1000
			}
			tok.Segments, tok.CallText = splitter.Add(tok.Text, text == ""), splitter.CallText()
			if !yield(tok, nil) {
				return
			}
		}
	}
}

func main() {
	path := flag.String("model", "tests/models/assistant", "folder of the model whose tokenizer and template are used")
	flag.Parse()
	if err := serve(*path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(path string) error {
	template, err := modelfiles.AllTemplates(path)
	if err != nil {
		return err
	}
	marks, err := segment.Infer(template, func(token string) bool { return strings.HasSuffix(token, "think>") && !strings.Contains(token, "_") })
	if err != nil {
		return err
	}
	models, err := mlx.NewHost(mlx.HostOptions{}, []mlx.HostedModel{{Name: "scripted", Path: path}}...)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := server.New(server.Config{
		Models: models, Log: log, StoreBytes: 64 << 20, WriteTimeout: time.Minute, RequestTimeout: time.Minute,
		Aliases: []server.Alias{{Pattern: "*", Name: "scripted"}},
		Between: func(m mlx.TextModel) mlx.TextModel { return scripted{m, marks} },
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.Info("serving", "address", "http://"+listener.Addr().String()+"/")
	if err := s.Serve(ctx, listener, 5*time.Second); err != nil {
		return err
	}
	return models.Close()
}
