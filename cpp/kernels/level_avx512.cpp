#define GOMLX_LEVEL level_avx512
#define GOMLX_NAME "avx512"
#include "level.inc.h"
