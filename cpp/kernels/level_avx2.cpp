#define GOMLX_LEVEL level_avx2
#define GOMLX_NAME "avx2"
#include "level.inc.h"
