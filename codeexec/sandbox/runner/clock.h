#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>

int64_t now_ns(void);      /* of a clock that is never set back */
uint64_t own_cpu_ns(void); /* processor time of the runner itself */

#endif
