package bridge

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// Options say how workers run.
type Options struct {
	Python          string // interpreter; see FindPython for the default
	Workers         int    // number of processes; 0 means 1
	TrustRemoteCode bool   // let the checkpoint's own Python code run
}

// Model is a model served by a pool of Python workers. It is safe for concurrent use.
type Model struct {
	pool     *pool
	info     engine.Info
	template bool

	requests, active, prompt, generated, classified atomic.Int64

	closing sync.Once
}

// Load starts the workers and loads the model in each.
func Load(ctx context.Context, path string, options Options) (*Model, error) {
	if options.Workers < 0 {
		return nil, &engine.OptionError{Option: "Workers", Reason: fmt.Sprintf("%d is negative", options.Workers)}
	}
	interpreter, err := FindPython(options.Python)
	if err != nil {
		return nil, err
	}
	source, err := workerSource()
	if err != nil {
		return nil, err
	}
	return load(ctx, path, options, command{
		name: interpreter, args: []string{"-m", "go_mlx_worker"}, env: environment(source),
	})
}

func load(ctx context.Context, path string, options Options, cmd command) (*Model, error) {
	m := &Model{}
	var first sync.Once
	m.pool = newPool(max(1, options.Workers), func(ctx context.Context) (*worker, error) {
		w, err := startWorker(ctx, cmd)
		if err != nil {
			return nil, err
		}
		info, err := w.load(ctx, path, options.TrustRemoteCode)
		if err != nil {
			w.stop()
			return nil, err
		}
		first.Do(func() { m.describe(path, info, w.versions) })
		return w, nil
	})
	if err := m.pool.warm(ctx); err != nil {
		m.Close()
		return nil, err
	}
	reply, err := m.call(ctx, &bareRequest{head{Type: "has_template"}})
	if err != nil {
		m.Close()
		return nil, err
	}
	m.template = reply.Value
	return m, nil
}

func (m *Model) describe(path string, i *workerInfo, v versions) {
	m.info = engine.Info{
		Path: path, Engine: "python", Architecture: i.Architecture, Device: i.Device, Layers: i.Layers,
		HiddenSize: i.HiddenSize, VocabSize: i.VocabSize, ContextLength: i.ContextLength, DType: i.DType,
		Quantization: i.Quantization, Parameters: i.Parameters, WeightBytes: i.WeightBytes, MLXVersion: v.MLX,
	}
}

// call sends one request to a worker of the pool and waits for its reply.
func (m *Model) call(ctx context.Context, r request) (*message, error) {
	w, err := m.pool.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer m.pool.release(w)
	return w.conn.call(ctx, r, nil)
}

// begin counts a request until the returned func is called.
func (m *Model) begin() (end func()) {
	m.requests.Add(1)
	m.active.Add(1)
	return func() { m.active.Add(-1) }
}

// Generate streams tokens; see engine.Engine.
func (m *Model) Generate(ctx context.Context, prompt engine.Prompt, options engine.GenerateOptions) iter.Seq2[engine.Token, error] {
	return func(yield func(engine.Token, error) bool) {
		if err := m.generate(ctx, prompt, options, yield); err != nil {
			yield(engine.Token{}, err)
		}
	}
}

func (m *Model) generate(ctx context.Context, prompt engine.Prompt, o engine.GenerateOptions, yield func(engine.Token, error) bool) error {
	if err := o.Validate(m.info.VocabSize); err != nil {
		return err
	}
	if err := prompt.Validate(); err != nil {
		return err
	}
	if o.Temperature > 0 && !o.HasSeed {
		o.Seed = engine.RandomSeed()
	}
	defer m.begin()()
	w, err := m.pool.acquire(ctx)
	if err != nil {
		return err
	}
	defer m.pool.release(w)
	e, err := w.conn.begin(&generateRequest{
		head: head{Type: "generate"},
		Text: prompt.Text, Messages: prompt.Messages, IDs: prompt.IDs,
		MaxTokens: o.MaxTokens, Temperature: o.Temperature, TopK: o.TopK, TopP: o.TopP, MinP: o.MinP,
		RepetitionPenalty: o.RepetitionPenalty, RepetitionContext: o.RepetitionContext, Seed: o.Seed,
		Stop: append([]string{}, o.Stop...), StopTokens: append([]int32{}, o.StopTokens...),
		IgnoreEOS: o.IgnoreEOS, LogProbs: o.LogProbs, TopLogProbs: o.TopLogProbs, Credit: streamCredit,
	}, nil)
	if err != nil {
		return err
	}
	defer w.conn.end(e)
	for taken := 1; ; taken++ {
		reply, err := w.conn.next(ctx, e)
		if err != nil {
			return err
		}
		token, err := reply.token()
		if err != nil {
			w.conn.cancel(e)
			return err
		}
		m.generated.Add(1)
		m.prompt.Add(int64(token.PromptTokens))
		last := token.FinishReason != ""
		if !yield(token, nil) {
			if !last {
				w.conn.cancel(e)
			}
			return nil
		}
		if last {
			return nil
		}
		if taken%(streamCredit/2) == 0 {
			if err := w.conn.send(&creditRequest{head{Type: "credit", ID: e.id}, streamCredit / 2}); err != nil {
				return err
			}
		}
	}
}

// token checks a token message.
func (m *message) token() (engine.Token, error) {
	if m.Type != "token" {
		return engine.Token{}, fmt.Errorf("%w: %q in a stream of tokens", errProtocol, m.Type)
	}
	reason := engine.FinishReason(m.Finish)
	if reason != "" && reason != engine.FinishStop && reason != engine.FinishLength {
		return engine.Token{}, fmt.Errorf("%w: finish reason %q", errProtocol, m.Finish)
	}
	t := engine.Token{ID: m.Token, Text: m.Text, LogProb: float32(m.LogProb), FinishReason: reason, PromptTokens: m.PromptTokens}
	for _, top := range m.Top {
		t.TopLogProbs = append(t.TopLogProbs, engine.TokenLogProb{ID: top.ID, LogProb: float32(top.LogProb)})
	}
	return t, nil
}

// classifyChunk is how many texts travel in one request: a cancelled call stops between batches, and
// several workers share a long list.
const classifyChunk = 256

// Classify scores labels; see engine.Engine. Long lists are spread over the workers.
func (m *Model) Classify(ctx context.Context, texts []string, options engine.ClassifyOptions) ([]engine.Classification, error) {
	if err := options.Validate(texts); err != nil {
		return nil, err
	}
	defer m.begin()()
	labels := options.Labels
	if !m.template {
		labels = make([]string, len(options.Labels))
		for i, label := range options.Labels {
			labels[i] = engine.PlainLabel(label)
		}
	}
	results := make([]engine.Classification, len(texts))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	limit := make(chan struct{}, len(m.pool.slots))
	for from := 0; from < len(texts); from += classifyChunk {
		limit <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		to := min(from+classifyChunk, len(texts))
		group.Go(func() {
			defer func() { <-limit }()
			if err := m.classifyPart(ctx, from, texts[from:to], labels, options, results[from:to]); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return results, nil
}

// classifyPart serves texts from the given index of the call on.
func (m *Model) classifyPart(ctx context.Context, from int, texts, labels []string, options engine.ClassifyOptions, results []engine.Classification) error {
	prompts := make([]string, len(texts))
	for i, text := range texts {
		prompts[i] = options.UserText(text)
		if !m.template {
			prompts[i] = engine.PlainPrompt(prompts[i])
		}
	}
	reply, err := m.call(ctx, &classifyRequest{head: head{Type: "classify"}, From: from, Texts: prompts, Labels: labels})
	if err != nil {
		return err
	}
	if len(reply.Scores) != len(texts) {
		return fmt.Errorf("%w: scores for %d texts, want %d", errProtocol, len(reply.Scores), len(texts))
	}
	for i, scores := range reply.Scores {
		if results[i], err = options.Result(scores); err != nil {
			return fmt.Errorf("text %d: %w", from+i, err)
		}
	}
	m.classified.Add(int64(len(texts)))
	return nil
}

// Encode returns token ids.
func (m *Model) Encode(ctx context.Context, text string, special bool) ([]int32, error) {
	if err := engine.CheckUTF8(text); err != nil {
		return nil, err
	}
	reply, err := m.call(ctx, &encodeRequest{head: head{Type: "encode"}, Text: text, Special: special})
	if err != nil {
		return nil, err
	}
	return reply.IDs, nil
}

// Decode returns text without special tokens.
func (m *Model) Decode(ctx context.Context, ids []int32) (string, error) {
	reply, err := m.call(ctx, &decodeRequest{head: head{Type: "decode"}, IDs: append([]int32{}, ids...)})
	if err != nil {
		return "", err
	}
	return reply.Text, nil
}

// RenderChat applies the chat template and opens the assistant's turn.
func (m *Model) RenderChat(ctx context.Context, messages []engine.Message) (string, error) {
	if err := (engine.Prompt{Messages: messages}).Validate(); err != nil {
		return "", err
	}
	reply, err := m.call(ctx, &renderRequest{head: head{Type: "render"}, Messages: messages})
	if err != nil {
		return "", err
	}
	return reply.Text, nil
}

// Info describes the model.
func (m *Model) Info() engine.Info { return m.info }

// Metrics reads counters, and the memory figures of one worker.
func (m *Model) Metrics(ctx context.Context) (engine.Metrics, error) {
	reply, err := m.call(ctx, &bareRequest{head{Type: "memory"}})
	if err != nil {
		return engine.Metrics{}, err
	}
	return engine.Metrics{
		Requests: m.requests.Load(), Active: m.active.Load(), PromptTokens: m.prompt.Load(),
		GeneratedTokens: m.generated.Load(), Classified: m.classified.Load(), WeightBytes: m.info.WeightBytes,
		ActiveBytes: reply.Active, CacheBytes: reply.Cache, PeakBytes: reply.Peak, Workers: m.pool.workers(),
	}, nil
}

// Close ends the workers and returns when all processes are gone. Streams under way end with
// engine.ErrClosed. It may be called again.
func (m *Model) Close() error {
	m.closing.Do(m.pool.close)
	return nil
}
