#define GOMLX_LEVEL level_neon
#define GOMLX_NAME "neon"
#include "level.inc.h"
