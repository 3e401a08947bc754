package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	mlx "forge.lthn.ai/core/go-mlx"
)

type generateRun struct {
	modelFlags
	chat              bool
	system            string
	json              bool
	maxTokens         int
	temperature       float32
	topK              int
	topP, minP        float32
	repetitionPenalty float32
	presencePenalty   float32
	frequencyPenalty  float32
	xtc               float32
	xtcThreshold      float32
	kvBits            int
	maxKVSize         int
	draftTokens       int
	schema            string
	regex             string
	choices           []string
	tools             string
	templateArguments string
	seed              uint64
	stop              []string
	topLogProbs       int
	seeded            bool
}

func generateCommand() *cobra.Command {
	run := &generateRun{}
	cmd := &cobra.Command{
		Use:         "generate MODEL [PROMPT]",
		Annotations: map[string]string{afterModel: "1"},
		Short:       "Continue a prompt, or answer it with --chat",
		Long:        "Continue a prompt, or answer it with --chat. Without PROMPT, standard input is read. With --model, the first argument is the prompt.",
		RunE: func(cmd *cobra.Command, args []string) error {
			run.seeded = cmd.Flags().Changed("seed")
			args, err := takeModel(&run.path, args)
			if err != nil {
				return err
			}
			if len(args) > 1 {
				return usageError{fmt.Errorf("unknown argument %q after the prompt: put the prompt in quotes", args[1])}
			}
			prompt, err := promptOf(args, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return run.run(cmd.Context(), prompt, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	run.add(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&run.chat, "chat", false, "answer as the assistant of a chat")
	flags.StringVar(&run.system, "system", "", "system message, with --chat")
	flags.BoolVar(&run.json, "json", false, "print one JSON object a token")
	flags.IntVarP(&run.maxTokens, "max-tokens", "n", 256, "largest number of tokens")
	flags.Float32VarP(&run.temperature, "temperature", "t", 0, "0 takes the most likely token")
	flags.IntVar(&run.topK, "top-k", 0, "draw among the k most likely tokens")
	flags.Float32Var(&run.topP, "top-p", 1, "draw among the most likely tokens of this total probability")
	flags.Float32Var(&run.minP, "min-p", 0, "drop tokens less likely than this times the best")
	flags.Float32Var(&run.repetitionPenalty, "repetition-penalty", 1, "above 1: avoid recent tokens")
	flags.Float32Var(&run.presencePenalty, "presence-penalty", 0, "subtracted from the logits of recent tokens")
	flags.Float32Var(&run.frequencyPenalty, "frequency-penalty", 0, "subtracted from the logits of recent tokens, times how often each occurred")
	flags.Float32Var(&run.xtc, "xtc", 0, "probability of excluding the top choices")
	flags.Float32Var(&run.xtcThreshold, "xtc-threshold", 0.1, "what counts as a top choice")
	flags.IntVar(&run.kvBits, "kv-bits", 0, "quantise the KV cache: 2, 3, 4, 6 or 8")
	flags.IntVar(&run.maxKVSize, "max-kv-size", 0, "keep only the first 4 and the last tokens' KV")
	flags.IntVar(&run.draftTokens, "draft-tokens", 0, "tokens that the draft model proposes at a time")
	flags.StringVar(&run.schema, "json-schema", "", "file with a JSON schema that the text must follow")
	flags.StringVar(&run.regex, "regex", "", "regular expression that the whole text must match")
	flags.StringArrayVar(&run.choices, "choice", nil, "the text is one of these; may be given again")
	cmd.MarkFlagsMutuallyExclusive("json-schema", "regex", "choice")
	flags.StringVar(&run.tools, "tools", "", "file with a JSON list of tools for the chat template, with --chat")
	flags.StringVar(&run.templateArguments, "template-arguments", "", `JSON object for the chat template, with --chat, e.g. {"enable_thinking": false}`)
	flags.Uint64Var(&run.seed, "seed", 0, "makes the draws repeatable")
	flags.StringArrayVar(&run.stop, "stop", nil, "end before this string; may be given again")
	flags.IntVar(&run.topLogProbs, "top-logprobs", 0, "with --json, report the most likely tokens")
	return cmd
}

func promptOf(args []string, stdin io.Reader, stderr io.Writer) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	if f, ok := stdin.(*os.File); ok && isTerminal(f) {
		fmt.Fprintln(stderr, "waiting for the prompt: type it, then Ctrl-D (or give it as an argument)")
	}
	text, err := readText(stdin)
	return strings.TrimRight(text, "\n"), err
}

func (r *generateRun) options() ([]mlx.GenerateOption, error) {
	options := []mlx.GenerateOption{
		mlx.WithMaxTokens(r.maxTokens), mlx.WithTemperature(r.temperature), mlx.WithSampling(mlx.TopK(r.topK), mlx.TopP(r.topP), mlx.MinP(r.minP), mlx.RepetitionPenalty(r.repetitionPenalty)), mlx.WithStop(r.stop...),
		mlx.WithSampling(mlx.PresencePenalty(r.presencePenalty), mlx.FrequencyPenalty(r.frequencyPenalty), mlx.XTC(r.xtc, r.xtcThreshold)),
		mlx.WithKV(mlx.MaxKVSize(r.maxKVSize)), mlx.WithScheduling(mlx.DraftTokens(r.draftTokens)), mlx.WithEvents(r.bars.show),
	}
	if r.kvBits != 0 {
		options = append(options, mlx.WithKV(mlx.QuantizedKV(r.kvBits, 64, 0)))
	}
	switch {
	case r.schema != "":
		data, err := readTextFile(r.schema)
		if err != nil {
			return nil, usageError{err}
		}
		options = append(options, mlx.WithConstraint(mlx.JSONSchema([]byte(data))))
	case r.regex != "":
		options = append(options, mlx.WithConstraint(mlx.Regex(r.regex)))
	case len(r.choices) > 0:
		options = append(options, mlx.WithConstraint(mlx.Choices(r.choices...)))
	}
	if r.tools != "" {
		data, err := readTextFile(r.tools)
		if err != nil {
			return nil, usageError{err}
		}
		options = append(options, mlx.WithTools([]byte(data)))
	}
	if r.templateArguments != "" {
		var arguments map[string]any
		if err := json.Unmarshal([]byte(r.templateArguments), &arguments); err != nil {
			return nil, usageError{fmt.Errorf("--template-arguments: %w", err)}
		}
		options = append(options, mlx.WithTemplate(mlx.TemplateArguments(arguments)))
	}
	if r.seeded {
		options = append(options, mlx.WithSeed(r.seed))
	}
	if r.topLogProbs > 0 {
		options = append(options, mlx.WithOutput(mlx.TopLogProbs(r.topLogProbs)))
	}
	return options, nil
}

func (r *generateRun) run(ctx context.Context, prompt string, out, stderr io.Writer) error {
	switch {
	case r.system != "" && !r.chat:
		return usageError{errors.New("--system goes with --chat")}
	case (r.tools != "" || r.templateArguments != "") && !r.chat:
		return usageError{errors.New("--tools and --template-arguments go with --chat")}
	case r.topLogProbs > 0 && !r.json:
		return usageError{errors.New("--top-logprobs goes with --json")}
	}
	options, err := r.options() // before the model is loaded: it reads files
	if err != nil {
		return err
	}
	m, err := r.load(ctx, stderr)
	if err != nil {
		return err
	}
	defer m.Close()
	stream := m.Generate(ctx, prompt, options...)
	if r.chat {
		var messages []mlx.Message
		if r.system != "" {
			messages = append(messages, mlx.Message{Role: "system", Content: r.system})
		}
		stream = m.Chat(ctx, append(messages, mlx.Message{Role: "user", Content: prompt}), options...)
	}
	start, first := time.Now(), time.Duration(0)
	count := 0
	var last mlx.Token
	for tok, err := range stream {
		if err != nil {
			return err
		}
		if count == 0 {
			r.bars.clear()
			first = time.Since(start)
		}
		count++
		last = tok
		if err := r.print(out, tok); err != nil {
			return err
		}
	}
	if !r.json {
		fmt.Fprintln(out)
	}
	rest := time.Since(start) - first
	r.say(stderr, "%d prompt and %d new tokens, first after %.0f ms, then %.1f a second, ended by %s",
		last.PromptTokens, count, first.Seconds()*1e3, float64(max(count-1, 0))/max(rest.Seconds(), 1e-9), last.FinishReason)
	return nil
}

func (r *generateRun) print(out io.Writer, tok mlx.Token) error {
	if !r.json {
		_, err := io.WriteString(out, tok.Text)
		return err
	}
	type top struct {
		ID      int32   `json:"id"`
		LogProb float32 `json:"logprob"`
	}
	var tops []top
	for _, t := range tok.TopLogProbs {
		tops = append(tops, top{t.ID, t.LogProb})
	}
	line := struct {
		ID           int32            `json:"id"`
		Text         string           `json:"text"`
		LogProb      float32          `json:"logprob,omitempty"`
		Top          []top            `json:"top,omitempty"`
		FinishReason mlx.FinishReason `json:"finish_reason,omitempty"`
	}{tok.ID, tok.Text, tok.LogProb, tops, tok.FinishReason}
	data, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = out.Write(append(data, '\n'))
	return err
}
