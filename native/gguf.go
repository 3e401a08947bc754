package native

import (
	"fmt"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/metal"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// A GGUF file may stand in for safetensors, beside the usual config.json and tokenizer.json: MLX reads the types
// F32, F16, Q4_0, Q4_1 and Q8_0 as they are and makes float16 of others that it knows.

// ggufNames are llama.cpp's names of tensors, without block numbers, and the usual ones.
var ggufNames = map[string]string{
	"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head",
	"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
	"attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
	"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_norm": "post_attention_layernorm",
}

// ggufSandwich are the names that differ in models that norm also what a block puts out.
var ggufSandwich = map[string]string{
	"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
}

// ggufFile is the GGUF file of a folder, or "".
func ggufFile(dir string) (string, error) {
	files, err := modelfiles.Files(dir, "*.gguf")
	if err != nil || len(files) == 0 {
		return "", err
	}
	if len(files) > 1 {
		return "", &engine.CheckpointError{Path: dir, Problems: []string{fmt.Sprintf("%d .gguf files; one is needed, in one part", len(files))}}
	}
	return files[0], nil
}

// readGGUF fills in headers and arrays under the usual names.
func (w *weights) readGGUF(file string) error {
	if err := gguf.CheckFile(file); err != nil {
		return err
	}
	arrays := w.scope.LoadGGUF(file)
	if err := w.scope.Err(); err != nil {
		return err
	}
	w.gguf = true
	_, sandwich := arrays["blk.0.post_ffw_norm.weight"]
	computeIn := arrays["token_embd.scales"]
	if computeIn == nil {
		computeIn = arrays["token_embd.weight"]
	}
	for name, a := range arrays {
		// Norms and biases are float32 always; left so, they would make everything float32.
		if a.NDim() == 1 && a.DType() == metal.Float32 && computeIn != nil && computeIn.DType() != metal.Float32 {
			narrow := w.scope.AsType(a, computeIn.DType())
			w.derived, w.spent = append(w.derived, narrow), append(w.spent, a)
			a = narrow
		}
		name = ggufName(name, sandwich)
		w.arrays[name] = a
		w.headers[name] = safetensors.Tensor{DType: ggufTypes[a.DType()], Shape: a.Shape(), Offset: [2]int64{0, int64(a.NBytes())}}
	}
	return w.scope.Err()
}

// ggufTypes are the safetensors names of the types in which MLX returns tensors.
var ggufTypes = map[metal.DType]string{
	metal.Float32: "F32", metal.Float16: "F16", metal.BFloat16: "BF16", metal.Uint32: "U32",
	metal.Int8: "I8", metal.Int16: "I16", metal.Int32: "I32",
}

// ggufName is the usual name of a tensor; unknown names stay, to be reported.
func ggufName(name string, sandwich bool) string {
	block, rest, inBlock := "", name, false
	if after, ok := strings.CutPrefix(name, "blk."); ok {
		block, rest, inBlock = strings.Cut(after, ".")
	}
	kind, suffix, _ := strings.Cut(rest, ".")
	usual, ok := ggufNames[kind]
	if sandwich {
		if other, differs := ggufSandwich[kind]; differs {
			usual, ok = other, true
		}
	}
	switch {
	case !ok:
		return name
	case inBlock:
		return "model.layers." + block + "." + usual + "." + suffix
	case kind == "output":
		return usual + "." + suffix
	}
	return "model." + usual + "." + suffix
}
