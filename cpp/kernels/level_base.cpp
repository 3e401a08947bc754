#define GOMLX_LEVEL level_base
#define GOMLX_NAME "base"
#include "level.inc.h"
