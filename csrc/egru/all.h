// Everything of one instruction set. Standard headers come before, outside of its target pragma.
#include "../math.h"
#include "problem.h"
#include "vector.h"
#include "products.h"
#include "tile.h"
#include "tile_back.h"
