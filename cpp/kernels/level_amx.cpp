#define GOMLX_TILES
#define GOMLX_LEVEL level_amx
#define GOMLX_NAME "amx"
#include "level.inc.h"
