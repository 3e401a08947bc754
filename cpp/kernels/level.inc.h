// The body of a level's file, which defines GOMLX_LEVEL as the name of its table.
#include "back_attention.h"
#include "level.h"
#include "product.h"

namespace gomlx {
extern const Level GOMLX_LEVEL;
const Level GOMLX_LEVEL{GOMLX_NAME, product, attention, add_norm, rms_norm, gate, scores, lookup, log_softmax, likes_interleaved,
    transpose, narrow, widen, add_low_rank, back_low_rank, back_add_norm, back_gate, back_attention, entropy_piece, scale_add};
} // namespace gomlx
