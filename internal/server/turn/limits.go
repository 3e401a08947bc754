package turn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Limits of one request. They are checked before any work begins, so that a single request cannot hold a model, the
// memory or a processor for long. What one request may do in time and bytes are settings of the server.
const (
	MaxChoices    = 16     // answers to one prompt
	MaxAnswers    = 256    // prompts times choices
	MaxMessages   = 16_384 // of a conversation
	MaxTools      = 512
	MaxStops      = 64
	MaxStopBytes  = 1024 // of one stop string
	MaxBiases     = 1024 // entries of logit_bias
	MaxEmbeddings = 2048 // texts to embed, as OpenAI has it
	MaxTexts      = 10_000
	MaxTokenized  = 1 << 20 // bytes of a text whose tokens are asked for, and tokens whose text is
	MaxLabels     = 1024
	MaxScored     = 1 << 20 // log-probabilities of prompts, with those of the most likely tokens
)

// AtMost refuses a list that is longer than its limit.
func AtMost(field string, n, most int, what string) error {
	if n <= most {
		return nil
	}
	return Bad(field, "%d %s are more than the %d that one request may have", n, what, most)
}

// mostOfToken is more bytes than the longest tokens of vocabularies have, which are 128 spaces.
const mostOfToken = 256

// fits refuses a text that is too long for the model in whatever tokens it comes, before it is made into tokens: of megabytes that takes seconds.
func fits(model mlx.TextModel, bytes int) error {
	limit := model.Info().ContextLength
	if tokens := bytes / mostOfToken; limit > 0 && tokens >= limit {
		return &mlx.ContextLengthError{Tokens: tokens, Limit: limit}
	}
	return nil
}

// fits finds what is too long by far.
func (w *Spec) fits(model mlx.TextModel) error {
	if w.Counts {
		return nil
	}
	bytes := 0
	for _, m := range w.Messages {
		bytes += len(m.Content)
	}
	for _, given := range w.Tools.callable() {
		bytes += len(given.Description) + len(given.Parameters)
	}
	for _, p := range w.Prompts {
		if err := fits(model, len(p.Text)); err != nil {
			return err
		}
	}
	return fits(model, bytes)
}

// Kind is the kind of an error, the same for all APIs.
type Kind int

// Kinds of errors.
const (
	Internal Kind = iota
	Invalid
	Unauthorized
	Forbidden
	NotFound
	TooLarge
	MediaType
	Busy
	Unavailable
	Timeout
	ClientGone // for logs and metrics: the client has left and receives no answer
)

// kinds are the status of an error and its names in the APIs of OpenAI and Anthropic.
var kinds = map[Kind]struct {
	status            int
	openAI, anthropic string
}{
	Internal:     {500, "server_error", "api_error"},
	Invalid:      {400, "invalid_request_error", "invalid_request_error"},
	Unauthorized: {401, "authentication_error", "authentication_error"},
	Forbidden:    {403, "permission_error", "permission_error"},
	NotFound:     {404, "invalid_request_error", "not_found_error"},
	TooLarge:     {413, "invalid_request_error", "request_too_large"},
	MediaType:    {415, "invalid_request_error", "invalid_request_error"},
	Busy:         {429, "rate_limit_error", "rate_limit_error"},
	Unavailable:  {503, "server_error", "overloaded_error"},
	Timeout:      {504, "server_error", "timeout_error"},
	ClientGone:   {499, "server_error", "api_error"},
}

// Status is the HTTP status of a kind.
func (k Kind) Status() int { return kinds[k].status }

// OpenAI is the "type" of a kind in OpenAI's errors.
func (k Kind) OpenAI() string { return kinds[k].openAI }

// Anthropic is the "type" of a kind in Anthropic's errors.
func (k Kind) Anthropic() string { return kinds[k].anthropic }

// Error is an error as a client sees it.
type Error struct {
	Kind    Kind
	Code    string // as in OpenAI's "code"; may be empty
	Param   string // the field that is to blame; may be empty
	Message string
	Retry   time.Duration // when to try again; 0 if not known
	// Tokens and Limit are set for a prompt that does not fit the context: each vendor's clients look for words of their own.
	Tokens, Limit int
}

func (e *Error) Error() string { return e.Message }

// Short is a text of at most so many bytes: what clients send comes back in errors, headers and logs.
func Short(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + " …"
}

// Bad is a request whose field cannot be honoured.
func Bad(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Code: "invalid_value", Param: field, Message: field + ": " + fmt.Sprintf(format, args...)}
}

// At names a field inside a list.
func At(list string, i int, field string) string { return fmt.Sprintf("%s[%d].%s", list, i, field) }

// Names are the fields of an API that set the options which an *mlx.OptionError names.
type Names map[string]string

var commonNames = Names{
	"WithMaxTokens": "max_tokens", "WithTemperature": "temperature", "TopK": "top_k", "TopP": "top_p", "MinP": "min_p",
	"RepetitionPenalty": "repetition_penalty", "RepetitionContext": "repetition_context_size", "PresencePenalty": "presence_penalty",
	"FrequencyPenalty": "frequency_penalty", "LogitBias": "logit_bias", "XTC": "xtc_probability", "WithStop": "stop",
	"TopLogProbs": "top_logprobs", "Segments": "tools", "WithTools": "tools", "TemplateArguments": "chat_template_kwargs",
	"JSONSchema": "response_format", "Grammar": "tools", "Embed": "model", "WithDimensions": "dimensions", "labels": "labels",
	"LabelPrompt": "prompt", "WithCalibration": "temperature", "LabelPrior": "prior", "WithAbstain": "abstain_below", "messages": "messages", "WithPromptName": "prompt_name", "WithTokenIDs": "input",
	"Prompt": "messages", "Effort": "reasoning_effort", "Budget": "thinking.budget_tokens", "ToolChoice": "tool_choice",
}

// Of is the field that sets an option.
func (n Names) Of(option string) string { return cmp.Or(n[option], commonNames[option], option) }

// plainReason is the reason of an option's error in one line. Errors of grammars show the whole grammar, which the server
// wrote: only the part about the client's schema is kept.
func plainReason(reason string) string {
	if _, about, found := strings.Cut(reason, "failed to compile JSON schema: "); found {
		reason = grammarLines.Split(about, 2)[0]
	}
	return strings.Join(strings.Fields(reason), " ")
}

// blamed is the option of a client's that is to blame for an option's error: a grammar of calls has the format of a text in it (grammarFor), which
// may be what cannot be honoured. Errors of grammars show the lines up to where they are, and a mark below it.
func blamed(option *mlx.OptionError) string {
	if option.Option == "Grammar" && markedText.MatchString(option.Reason) {
		return "JSONSchema"
	}
	return option.Option
}

var markedText = regexp.MustCompile(`\| text: .*\n +\^`)

var grammarLines = regexp.MustCompile(`\n +\d+ \| `)

// ofLoading are options by which the server loads models: what is wrong with them, no client can change.
var ofLoading = []string{"WithAdapter", "WithDraftModel", "WithEngine", "WithHost", "Interpreter", "Threads"}

// ErrDraining ends requests that are still under way when the time for draining is over.
var ErrDraining = errors.New("the server is shutting down")

// Explain turns any error of a model into what clients see; names are the called API's names of fields.
func Explain(err error, names Names) *Error {
	var (
		api    *Error
		option *mlx.OptionError
		length *mlx.ContextLengthError
		remote *mlx.RemoteError
		fault  *PanicError
		token  *mlx.TokenError
		spelt  *mlx.ControlTokenError
	)
	message := err.Error()
	if errors.As(err, &remote) {
		message = "python worker: " + remote.Message
	}
	message, _, _ = strings.Cut(message, "\n") // tracebacks and what workers printed are for the log
	say := func(kind Kind, code, param string, retry time.Duration) *Error {
		return &Error{Kind: kind, Code: code, Param: param, Message: message, Retry: retry}
	}
	switch {
	case errors.As(err, &api):
		return api
	case errors.Is(err, mlx.ErrQuarantined): // where it is kept is for the log
		return &Error{Kind: Internal, Code: "request_quarantined", Message: "this request ended two workers of the model and is not tried again; the server's log has more"}
	case errors.As(err, &fault):
		return &Error{Kind: Internal, Code: "internal", Message: "a fault in the server; its log has more"}
	case errors.Is(err, mlx.ErrBudget), errors.Is(err, mlx.ErrOutOfMemory): // also while an adapter or a draft model of the server's is loaded
		return say(Unavailable, "out_of_memory", "", 5*time.Second)
	case errors.Is(err, ErrDraining), errors.Is(err, mlx.ErrClosed):
		return say(Unavailable, "shutting_down", "", 5*time.Second)
	case errors.As(err, &option) && slices.Contains(ofLoading, option.Option):
		return say(Internal, "internal", "", 0)
	case errors.As(err, &option):
		return Bad(names.Of(blamed(option)), "%s", plainReason(option.Reason))
	case errors.As(err, &length):
		e := say(Invalid, "context_length_exceeded", names.Of("Prompt"), 0)
		e.Tokens, e.Limit = length.Tokens, length.Limit
		return e
	case errors.As(err, &token), errors.As(err, &spelt), errors.Is(err, mlx.ErrEmptyPrompt), errors.Is(err, mlx.ErrInvalidUTF8), errors.Is(err, mlx.ErrNoChatTemplate):
		return say(Invalid, "invalid_value", names.Of("Prompt"), 0)
	case errors.Is(err, mlx.ErrUnsupported):
		return say(Invalid, "unsupported", "model", 0)
	case errors.Is(err, mlx.ErrBusy):
		return say(Busy, "rate_limit_exceeded", "", time.Second)
	case errors.Is(err, mlx.ErrCrashLoop):
		return say(Unavailable, "crash_loop", "", 30*time.Second)
	case errors.Is(err, context.DeadlineExceeded):
		return say(Timeout, "timeout", "", 0)
	case errors.Is(err, context.Canceled):
		return say(ClientGone, "cancelled", "", 0)
	}
	return say(Internal, "internal", "", 0)
}
