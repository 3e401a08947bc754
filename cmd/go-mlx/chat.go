package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/hub"
)

const chatHelp = `Type a message and press Enter. End a line with \ to go on in the next one, or put several lines between two lines of """.
Text of several lines may be pasted. Ctrl-C stops an answer or clears what was typed; Ctrl-D on an empty line ends the conversation.

  /system TEXT      begin anew with a system message; without TEXT show it
  /set NAME VALUE   temperature, top-p, top-k, max-tokens or seed
  /set              show all of these
  /clear            forget the conversation, keep the system message
  /save FILE        write the conversation as JSON, to a new file
  /help, /quit
`

type chatRun struct {
	modelFlags
	system   string
	settings chatSettings
}

// chatSettings can be changed within the conversation.
type chatSettings struct {
	temperature, topP float64
	topK, maxTokens   int
	seed              uint64
	seeded            bool
}

func chatCommand() *cobra.Command {
	run := &chatRun{}
	cmd := &cobra.Command{
		Use:   "chat MODEL",
		Short: "Hold a conversation in the terminal",
		Long:  "Hold a conversation in the terminal.\n\n" + chatHelp,
		RunE: withModel(&run.path, func(cmd *cobra.Command) error {
			run.settings.seeded = cmd.Flags().Changed("seed")
			return run.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	run.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&run.system, "system", "", "system message")
	flags.Float64VarP(&run.settings.temperature, "temperature", "t", 0.7, "0 takes the most likely token")
	flags.Float64Var(&run.settings.topP, "top-p", 0.95, "draw among the most likely tokens of this total probability")
	flags.IntVar(&run.settings.topK, "top-k", 0, "draw among the k most likely tokens")
	flags.IntVarP(&run.settings.maxTokens, "max-tokens", "n", 1024, "largest number of tokens of an answer")
	flags.Uint64Var(&run.settings.seed, "seed", 0, "makes the draws repeatable")
	return cmd
}

func (r *chatRun) run(ctx context.Context, in io.Reader, out, stderr io.Writer) error {
	if name, err := r.settings.check(); err != nil {
		return usageError{fmt.Errorf("--%s: %w", name, err)}
	}
	m, err := r.load(ctx, stderr)
	if err != nil {
		return err
	}
	defer m.Close()
	// Ctrl-C stops an answer; /quit, Ctrl-D and SIGTERM end the conversation.
	quit, stop := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGTERM)
	defer stop()
	lines := newLineSource(in, out)
	if lines.terminal != nil {
		r.say(stderr, "/help lists the commands")
		out = visible{out}
	}
	c := &conversation{model: m, out: &output{to: out}, settings: r.settings, system: r.system}
	unanswered := 0
conversation:
	for quit.Err() == nil {
		text, err := lines.message()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch text = strings.TrimSpace(text); {
		case text == "":
		case text == "/quit" || text == "/exit" || text == "/bye":
			break conversation
		case strings.HasPrefix(text, "/"):
			err = c.command(lines.expand(text))
		default:
			if err = c.answer(quit, lines.expand(text)); err != nil {
				unanswered++
			}
		}
		if c.out.err != nil || errors.Is(err, mlx.ErrNoChatTemplate) {
			return cmp.Or(c.out.err, err) // no answer will ever be seen, or come
		}
		if err != nil {
			fmt.Fprintln(stderr, printable(err.Error()))
		}
	}
	if c.out.err != nil {
		return c.out.err
	}
	if unanswered > 0 && lines.terminal == nil { // a script should know
		return fmt.Errorf("%s without an answer", counted(unanswered, "message"))
	}
	return nil
}

// output remembers the error of a write: whoever reads is gone, or the disk of a file is full.
type output struct {
	to  io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	o.err = cmp.Or(o.err, err)
	return n, err
}

// visible shows on a terminal what would steer it: a model repeats what is in the texts that it is given.
type visible struct{ terminal io.Writer }

func (v visible) Write(p []byte) (int, error) {
	if _, err := io.WriteString(v.terminal, printable(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// conversation is the messages so far, and the settings of the next answer.
type conversation struct {
	model    mlx.TextModel
	out      *output
	settings chatSettings
	system   string
	messages []mlx.Message // without the system message
	saved    []string      // files that were written here
}

// all is what the model is given.
func (c *conversation) all() []mlx.Message {
	if c.system == "" {
		return c.messages
	}
	return append([]mlx.Message{{Role: "system", Content: c.system}}, c.messages...)
}

// answer streams the answer to a message. The generated part of a stopped answer is kept in the conversation.
func (c *conversation) answer(ctx context.Context, text string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	before := c.messages
	c.messages = append(c.messages, mlx.Message{Role: "user", Content: text})
	s := c.settings
	options := []mlx.GenerateOption{
		mlx.WithMaxTokens(s.maxTokens), mlx.WithTemperature(float32(s.temperature)), mlx.WithSampling(mlx.TopP(float32(s.topP)), mlx.TopK(s.topK)), mlx.WithTemplate(mlx.PlainContent()),
	}
	if s.seeded {
		options = append(options, mlx.WithSeed(s.seed))
	}
	var said strings.Builder
	for tok, err := range c.model.Chat(ctx, c.all(), options...) {
		if err != nil {
			if ctx.Err() != nil && said.Len() > 0 {
				break // Ctrl-C
			}
			c.messages = before
			if ctx.Err() != nil {
				fmt.Fprintln(c.out)
				return nil
			}
			var long *mlx.ContextLengthError
			if errors.As(err, &long) && len(before) > 0 {
				return fmt.Errorf("%w, or /clear the conversation", err)
			}
			return err
		}
		said.WriteString(tok.Text)
		if _, err := io.WriteString(c.out, tok.Text); err != nil {
			return err
		}
		if tok.FinishReason == mlx.FinishLength {
			fmt.Fprintf(c.out, " [cut off after %d tokens; /set max-tokens N allows more]", s.maxTokens)
		}
	}
	fmt.Fprint(c.out, "\n\n")
	c.messages = append(c.messages, mlx.Message{Role: "assistant", Content: said.String()})
	return nil
}

func (c *conversation) command(line string) error {
	name, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch name {
	case "/help", "/?":
		fmt.Fprint(c.out, wrapped(chatHelp))
	case "/clear":
		c.messages = nil
	case "/system":
		if rest == "" {
			fmt.Fprintf(c.out, "system message: %q\n", c.system)
			return nil
		}
		c.system, c.messages = rest, nil
	case "/save":
		return c.save(rest)
	case "/set":
		return c.set(rest)
	default:
		return fmt.Errorf("there is no %s; /help lists the commands", name)
	}
	return nil
}

func (c *conversation) save(path string) error {
	if path == "" {
		return errors.New("/save needs a file")
	}
	path = hub.AtHome(path)
	if _, err := os.Lstat(path); err == nil && !slices.Contains(c.saved, path) {
		return fmt.Errorf("/save: %s is there already: give another name, or delete it", path)
	}
	data, err := json.MarshalIndent(c.all(), "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("/save: %w", err)
	}
	c.saved = append(c.saved, path)
	fmt.Fprintf(c.out, "%d messages are in %s\n", len(c.all()), path)
	return nil
}

// check names the first setting that no model can be given.
func (s chatSettings) check() (name string, err error) {
	switch {
	case !(s.temperature >= 0 && s.temperature <= 100): // nor NaN
		return "temperature", fmt.Errorf("%v is not between 0 and 100", s.temperature)
	case !(s.topP >= 1e-6 && s.topP <= 1):
		return "top-p", fmt.Errorf("%v is not between 1e-06 and 1", s.topP)
	case s.topK < 0:
		return "top-k", fmt.Errorf("%d is less than 0", s.topK)
	case s.maxTokens < 1:
		return "max-tokens", fmt.Errorf("%d is less than 1", s.maxTokens)
	}
	return "", nil
}

func (c *conversation) set(rest string) error {
	s := c.settings
	name, value, _ := strings.Cut(rest, " ")
	value = strings.TrimSpace(value)
	var err error
	switch name {
	case "":
		fmt.Fprintf(c.out, "temperature %v, top-p %v, top-k %d, max-tokens %d", s.temperature, s.topP, s.topK, s.maxTokens)
		if s.seeded {
			fmt.Fprintf(c.out, ", seed %d", s.seed)
		}
		fmt.Fprintln(c.out)
	case "temperature":
		s.temperature, err = strconv.ParseFloat(value, 64)
	case "top-p":
		s.topP, err = strconv.ParseFloat(value, 64)
	case "top-k":
		s.topK, err = strconv.Atoi(value)
	case "max-tokens":
		s.maxTokens, err = strconv.Atoi(value)
	case "seed":
		s.seed, err = strconv.ParseUint(value, 10, 64)
		s.seeded = true
	default:
		err = errors.New("there are temperature, top-p, top-k, max-tokens and seed")
	}
	if errors.Is(err, strconv.ErrSyntax) || errors.Is(err, strconv.ErrRange) {
		err = fmt.Errorf("%q is not such a number", value)
	}
	if err == nil {
		_, err = s.check()
	}
	if err != nil {
		return fmt.Errorf("/set %s: %w", name, err)
	}
	c.settings = s
	return nil
}
