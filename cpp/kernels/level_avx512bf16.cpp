#define GOMLX_LEVEL level_avx512bf16
#define GOMLX_NAME "avx512bf16"
#include "level.inc.h"
