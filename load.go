package mlx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
	"forge.lthn.ai/core/go-mlx/internal/hub"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// LoadModel loads a model: a folder of Hugging Face's layout (config.json, *.safetensors, tokenizer.json), a folder with a GGUF file, a
// .gguf file (of a split model the first part), or a name on the hub that was downloaded (see Locate). Info says what was found where.
// Nothing is ever fetched. The caller closes the model.
func LoadModel(path string, options ...LoadOption) (TextModel, error) {
	return LoadModelContext(context.Background(), path, options...)
}

// LoadModelContext is LoadModel with a context: when it ends, the load is given up and its error is returned.
func LoadModelContext(ctx context.Context, path string, options ...LoadOption) (TextModel, error) {
	o := loadOptionsOf(options)
	if o.err != nil {
		return nil, fmt.Errorf("load %s: %w", path, o.err)
	}
	memory, err := o.joinMemory(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	m, err := loadWith(ctx, path, o)
	if memory != nil {
		memory.EndLoad()
	}
	if err != nil {
		if memory != nil {
			memory.Leave()
		}
		return nil, err
	}
	if memory != nil {
		m.joined = memory
	}
	return m.public(), nil
}

// python reports whether the options choose the python engine.
func (o loadOptions) python() bool {
	return o.engine == EnginePython || o.engine == EngineAuto && len(o.pythonOnly) > 0
}

// joinMemory makes a model that its caller loads count in a host's budget, and waits for the memory that the load needs. It returns nil
// without a host.
func (o *loadOptions) joinMemory(ctx context.Context, path string) (*admission.Memory, error) {
	switch {
	case o.host != nil && o.budget > 0:
		return nil, &OptionError{Option: "WithMemoryBudget", Reason: "WithHost makes the host's budget count for the model"}
	case o.host == nil:
		return nil, nil
	}
	o.native.MemoryBudget = o.host.options.Budget
	memory := o.host.registry.Join(path)
	defer func() {
		if o.memory == nil { // also when a func of the user panics
			memory.Leave()
		}
	}()
	if err := memory.BeginLoad(ctx, need(path, *o), o.tellWait); err != nil {
		return nil, err
	}
	o.memory = memory
	return memory, nil
}

// tellWait passes on what a load waits for, as an event.
func (o *loadOptions) tellWait(w Wait) {
	if o.bridge.Events != nil {
		o.bridge.Events(Event{Kind: EventWait, Label: w.String()})
	}
}

// loadWith loads a model in memory that was granted, if there is a budget.
func loadWith(ctx context.Context, path string, o loadOptions) (*model, error) {
	m, err := load(ctx, path, o)
	if err == nil && o.shadow != nil {
		if m.shadow, err = newShadow(ctx, m.Info().Path, o); err != nil {
			err = errors.Join(err, m.Close())
		}
	}
	if err != nil {
		return nil, whileDoing("load", path, named(err))
	}
	return m, nil
}

// loadNativeIn is loadNative with a claim for what the model holds.
func loadNativeIn(ctx context.Context, path string, o loadOptions, reason string) (*model, error) {
	if o.memory == nil {
		return loadNative(ctx, path, o.native, reason)
	}
	expected := modelfiles.Need(path, o.native.Draft, o.native.Adapter) + o.native.PromptCache
	claim := o.memory.Claim(expected, admission.Needed)
	if err := claim.Await(ctx, o.tellWait); err != nil {
		return nil, err
	}
	o.native.MakeRoom = func(ctx context.Context, bytes int64) bool { return o.memory.CloseIdle(ctx, bytes, computesHere) }
	m, err := loadNative(ctx, path, o.native, reason)
	if err != nil {
		claim.Release()
		return nil, err
	}
	m.claim, m.expected, m.promptCache = claim, expected, o.native.PromptCache
	m.measure(ctx)
	return m, nil
}

// computesHere reports whether a model of a host runs in the native engine: other models hold memory of other processes.
func computesHere(m admission.Model) bool { return m.(*model).claim != nil }

// Locate returns the folder or the file of a model: of a path itself, and of a name ORG/NAME[@REVISION][:FILE.gguf] the place in the
// cache that huggingface_hub and all that is built on it share. A path that exists comes before a name, and may begin with ~.
func Locate(model string) (string, error) {
	if model == "" {
		return "", fmt.Errorf("%w: no model is named (%w): give a folder, a .gguf file or ORG/NAME", modelfiles.ErrNotAModel, fs.ErrNotExist)
	}
	model = pathOf(model)
	if name, ok := hubName(model); ok {
		path, err := hub.Find(name)
		if errors.Is(err, hub.ErrNotCached) {
			err = fmt.Errorf("there is no file or folder of this name, and as a name on the hub %w", err)
		}
		return path, err
	}
	return filepath.Abs(model)
}

// pathOf is a path in which ~ is the user's home, unless there is something of that very name.
func pathOf(path string) string {
	if _, err := os.Stat(path); err != nil {
		return hub.AtHome(path)
	}
	return path
}

// hubName reads what is no path as a name on the hub.
func hubName(model string) (name hub.Name, ok bool) {
	if _, err := os.Stat(model); err != nil {
		return hub.Parse(model)
	}
	return name, false
}

// unfinished says what to do if files are missing from a model in the cache: a download may have been given up, by this program or another.
func unfinished(model string, err error) error {
	name, ok := hubName(model)
	var bad *CheckpointError
	var option *OptionError
	if errors.Is(err, bridge.ErrNoPython) || errors.As(err, &option) { // it is not the model that is missing
		return err
	}
	if ok && (errors.Is(err, fs.ErrNotExist) || errors.As(err, &bad)) && !errors.Is(err, hub.ErrNotCached) {
		return fmt.Errorf("%w; if the download was not finished: go-mlx pull %s", err, name)
	}
	return err
}

func load(ctx context.Context, what string, o loadOptions) (*model, error) {
	path, err := Locate(what)
	if err != nil {
		return nil, err
	}
	if err := o.find(); err != nil {
		return nil, err
	}
	m, err := loadFound(ctx, path, o)
	if err != nil {
		return nil, unfinished(what, err)
	}
	if m.source, err = describeSource(what, path); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// find replaces the name of a draft model by its folder or file, and checks that draft model and adapter are there.
func (o *loadOptions) find() error {
	for _, draft := range []*string{&o.native.Draft, &o.bridge.Draft} {
		if *draft == "" {
			continue
		}
		found, err := Locate(*draft)
		if err == nil {
			_, err = modelfiles.Find(found)
		}
		if err != nil {
			return optionFile("WithDraftModel", *draft, err)
		}
		*draft = found
	}
	for _, adapter := range []*string{&o.native.Adapter, &o.bridge.Adapter} {
		if *adapter == "" {
			continue
		}
		*adapter = pathOf(*adapter)
		if err := verifyAdapter(*adapter); err != nil {
			return optionFile("WithAdapter", *adapter, err)
		}
	}
	return nil
}

// optionFile is an error about the file or folder that an option names.
func optionFile(option, path string, err error) error {
	return &OptionError{Option: option, Reason: path + ": " + err.Error(), Err: err}
}

// describeSource says what was found where.
func describeSource(what, path string) (string, error) {
	from, err := modelfiles.Find(path)
	if err != nil {
		return "", err
	}
	text := "safetensors in " + from.Dir
	if from.GGUF != "" {
		types, err := from.Types()
		if err != nil {
			return "", err
		}
		text = fmt.Sprintf("GGUF of %s: %s", types, from.GGUF)
	}
	if _, ok := hubName(pathOf(what)); ok {
		text = what + " in the hub's cache: " + text
	}
	return text, nil
}

func loadFound(ctx context.Context, path string, o loadOptions) (*model, error) {
	from, err := modelfiles.Find(path)
	if err != nil {
		return nil, err
	}
	if from.GGUF != "" {
		return loadGGUF(ctx, path, o)
	}
	switch o.engine {
	case EngineNative:
		if len(o.pythonOnly) > 0 {
			return nil, &OptionError{Option: o.pythonOnly[0], Reason: "only the python engine has it"}
		}
		return loadNativeIn(ctx, path, o, "asked for")
	case EnginePython:
		if len(o.nativeOnly) > 0 {
			return nil, &OptionError{Option: o.nativeOnly[0], Reason: "only the native engine has it"}
		}
		return loadPython(ctx, path, o, "asked for")
	case EngineAuto:
		return loadAuto(ctx, path, o)
	}
	return nil, &OptionError{Option: "WithEngine", Reason: fmt.Sprintf("unknown engine %q; there are auto, native and python", o.engine)}
}

// WeightFileBytes is how large the weight files are that loading a model with these options reads: its own, those of a draft model
// and an adapter, for each worker of the python engine once, and for a shadow's too. It is about what the weights need in memory.
// Names on the hub are looked up as LoadModel does; a model that is not found counts as 0 bytes.
func WeightFileBytes(path string, options ...LoadOption) int64 {
	return loadOptionsOf(options).everyProcess(func(x loadOptions) int64 {
		return modelfiles.Weights(located(path), located(x.native.Draft), pathOf(x.native.Adapter))
	}, func(x loadOptions) int { return x.bridge.Workers })
}

// need is how many bytes are reserved before a model is loaded: for every process that loads it at once, its weights, those of a draft
// and an adapter, KV for a request, and the prompt cache.
func need(path string, o loadOptions) int64 {
	return o.everyProcess(func(x loadOptions) int64 {
		return modelfiles.Need(located(path), located(x.native.Draft), pathOf(x.native.Adapter)) + x.native.PromptCache
	}, func(x loadOptions) int { return x.bridge.FirstWorkers() })
}

// everyProcess sums up what all processes need that load the model or its shadow.
func (o loadOptions) everyProcess(each func(loadOptions) int64, workers func(loadOptions) int) int64 {
	total := each(o)
	if o.python() {
		total *= int64(max(1, workers(o)))
	}
	if o.shadow != nil {
		second := o.shadow.load
		second.native.Adapter = o.ofShadow().Adapter
		total += each(second) * int64(max(1, workers(second)))
	}
	return total
}

// located is where a model is; of a model that is not found it is the name as given, so that loading reports it. "" stays "".
func located(model string) string {
	if model == "" {
		return ""
	}
	if found, err := Locate(model); err == nil {
		return found
	}
	return model
}

// NativeSupport returns nil if the native engine has code for a model, or why it cannot run it. It reads the config only.
func NativeSupport(path string) error {
	path, err := Locate(path)
	if err != nil {
		return err
	}
	return nativeSupports(path)
}

// loadAuto takes the native engine where it can do what was asked.
func loadAuto(ctx context.Context, path string, o loadOptions) (*model, error) {
	if len(o.pythonOnly) > 0 && len(o.nativeOnly) > 0 {
		return nil, &OptionError{Option: o.nativeOnly[0], Reason: "only the native engine has it, and only the python engine has " + o.pythonOnly[0]}
	}
	if len(o.pythonOnly) > 0 {
		return loadPython(ctx, path, o, "only the python engine has "+strings.Join(o.pythonOnly, " and "))
	}
	reason := nativeSupports(path)
	if reason == nil && len(o.nativeOnly) == 0 {
		// A chat template that only Python's Jinja reads is a reason for that engine, if it is there: without it only chats are lost.
		if unread := nativeReadsTemplate(path); unread != nil {
			if m, err := loadPython(ctx, path, o, "the native engine cannot read the chat template: "+unread.Error()); err == nil || ctx.Err() != nil {
				return m, err
			}
		}
	}
	if reason == nil {
		m, err := loadNativeIn(ctx, path, o, "the native engine supports this architecture")
		if err == nil || !errors.Is(err, ErrUnsupported) {
			return m, err
		}
		reason = err // found only in the details of the config
	}
	if !errors.Is(reason, ErrUnsupported) || len(o.nativeOnly) > 0 {
		return nil, reason
	}
	m, err := loadPython(ctx, path, o, reason.Error())
	if err != nil {
		return nil, fmt.Errorf("%w (the python engine was tried because: %w)", err, reason)
	}
	return m, nil
}

// loadGGUF takes the native engine, which alone reads GGUF files.
func loadGGUF(ctx context.Context, path string, o loadOptions) (*model, error) {
	err := fmt.Errorf("%w; go-mlx convert %s --out DIR writes it as safetensors, which that engine reads", errGGUF, filepath.Base(path))
	switch {
	case len(o.pythonOnly) > 0:
		return nil, &OptionError{Option: o.pythonOnly[0], Reason: err.Error()}
	case o.engine == EngineNative:
		return loadNativeIn(ctx, path, o, "asked for")
	case o.engine == EngineAuto:
		return loadNativeIn(ctx, path, o, "it reads GGUF files")
	}
	return nil, &OptionError{Option: "WithEngine", Reason: err.Error()}
}

var errGGUF = errors.New("the python engine does not read GGUF files")

func loadPython(ctx context.Context, path string, o loadOptions, reason string) (*model, error) {
	m, own, err := loadWorkers(ctx, path, o)
	if err != nil {
		return nil, err
	}
	return &model{engine: m, reason: reason, joined: own}, nil
}

// loadWorkers starts the python engine. Without a host the model's own budget counts, if it has one; the caller ends the memory that is
// returned with Leave after the model's Close.
func loadWorkers(ctx context.Context, path string, o loadOptions) (m *bridge.Model, own *admission.Memory, err error) {
	if o.memory == nil && o.budget > 0 {
		own = admission.New(admission.Options{Budget: o.budget}).Join(path)
		o.memory = own
		each := modelfiles.Need(path, o.bridge.Draft, o.bridge.Adapter) + o.bridge.PromptCache
		if err := own.BeginLoad(ctx, each*int64(o.bridge.FirstWorkers()), o.tellWait); err != nil {
			return nil, nil, err
		}
		defer own.EndLoad()
	}
	if o.memory != nil {
		ctx = admission.NewContext(ctx, o.memory)
	}
	m, err = bridge.Load(ctx, path, o.bridge)
	return m, own, err
}

var _ engine.Engine = (*bridge.Model)(nil)
