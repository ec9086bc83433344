/* The loops of _sums.c for vectors of VECTOR bytes, included once for each width. NAMED makes the names
   of that width, and TARGET says for which processors it is compiled. */

typedef float NAMED(Floats) __attribute__((vector_size(VECTOR)));
typedef float NAMED(HalfFloats) __attribute__((vector_size(VECTOR / 2)));
typedef int NAMED(FloatMask) __attribute__((vector_size(VECTOR)));
typedef double NAMED(Doubles) __attribute__((vector_size(VECTOR)));
typedef long long NAMED(DoubleMask) __attribute__((vector_size(VECTOR)));

#define FLOATS (VECTOR / (int)sizeof(float))
#define DOUBLES (VECTOR / (int)sizeof(double))
#define PER_LINE (LINE / VECTOR)
#define CHOOSE(type, mask, where, yes, no) ((type)(((mask)(yes) & (where)) | ((mask)(no) & ~(where))))

typedef struct {
    NAMED(Doubles) sum, squares, absolute;
} NAMED(Totals);

TARGET static inline void NAMED(add)(NAMED(Totals) *totals, const NAMED(Doubles) *values)
{
    totals->sum += *values;
    totals->squares += *values * *values;
    totals->absolute += (NAMED(Doubles))((NAMED(DoubleMask))*values & MAGNITUDE);
}

/* Some elements of a row, less those of another one where there is one. */
#define DEFINE_AT(name, Vector, element)                                                           \
    TARGET static inline void name(const element *x, const element *minus, Py_ssize_t i,           \
                                   Vector *values)                                                 \
    {                                                                                              \
        memcpy(values, x + i, sizeof *values);                                                     \
        if (minus) {                                                                               \
            Vector others;                                                                         \
            memcpy(&others, minus + i, sizeof others);                                             \
            *values -= others;                                                                     \
        }                                                                                          \
    }

DEFINE_AT(NAMED(floats_at), NAMED(Floats), float)
DEFINE_AT(NAMED(doubles_at), NAMED(Doubles), double)

TARGET static inline void NAMED(add_floats)(NAMED(Totals) totals[2], const NAMED(Floats) *values)
{
    NAMED(HalfFloats) halves[2];
    memcpy(halves, values, sizeof halves);
    for (int half = 0; half < 2; half++) {
        NAMED(Doubles) exact = __builtin_convertvector(halves[half], NAMED(Doubles));
        NAMED(add)(&totals[half], &exact);
    }
}

/* By their position in a line, so that the order is that of every width. */
TARGET static void NAMED(finish_totals)(double *out, const NAMED(Totals) *totals, int count)
{
    for (int i = 0; i < count; i++)
        for (int k = 0; k < DOUBLES; k++) {
            out[SUM] += totals[i].sum[k];
            out[SQUARES] += totals[i].squares[k];
            out[ABSOLUTE] += totals[i].absolute[k];
        }
}

/* Extremes and zeros of the lines from `start` to `end`. */
#define DEFINE_EXTREMES(name, at, Vector, Mask, element)                                           \
    TARGET static void name(const element *x, const element *minus, Py_ssize_t start,              \
                            Py_ssize_t end, double *out)                                           \
    {                                                                                              \
        enum { LANES = VECTOR / sizeof(element) };                                                 \
        Vector low[PER_LINE], high[PER_LINE];                                                      \
        Mask zeros = {0};                                                                          \
        for (int k = 0; k < PER_LINE; k++) {                                                       \
            low[k] = (Vector){0} + INFINITY;                                                       \
            high[k] = (Vector){0} - INFINITY;                                                      \
        }                                                                                          \
        for (Py_ssize_t i = start; i < end; i += PER_LINE * LANES)                                 \
            for (int k = 0; k < PER_LINE; k++) {                                                   \
                Vector values;                                                                     \
                at(x, minus, i + LANES * k, &values);                                              \
                zeros -= values == 0;                                                              \
                low[k] = CHOOSE(Vector, Mask, values < low[k], values, low[k]);                    \
                high[k] = CHOOSE(Vector, Mask, values > high[k], values, high[k]);                 \
            }                                                                                      \
        for (int k = 0; k < PER_LINE; k++)                                                         \
            for (int lane = 0; lane < (int)LANES; lane++)                                          \
                finish(out, low[k][lane], high[k][lane], 0);                                       \
        for (int lane = 0; lane < (int)LANES; lane++)                                              \
            out[ZEROS] += (double)zeros[lane];                                                     \
    }

DEFINE_EXTREMES(NAMED(float_extremes), NAMED(floats_at), NAMED(Floats), NAMED(FloatMask), float)
DEFINE_EXTREMES(NAMED(double_extremes), NAMED(doubles_at), NAMED(Doubles), NAMED(DoubleMask), double)

/* Block by block, in loops for each of which the processor has registers enough. */
TARGET static void NAMED(sum_floats)(const float *x, const float *minus, Py_ssize_t n, double *out)
{
    enum { WIDTH = LINE / sizeof(float), LOOPS = PER_LINE / 2, LENGTH = BLOCK / sizeof(float) };
    NAMED(Totals) totals[LOOPS][4];
    memset(totals, 0, sizeof totals);
    Py_ssize_t whole = n - n % WIDTH;
    for (Py_ssize_t start = 0; start < whole; start += LENGTH) {
        Py_ssize_t end = whole - start < LENGTH ? whole : start + LENGTH;
        for (int loop = 0; loop < LOOPS; loop++) {
            NAMED(Totals) own[4];
            memcpy(own, totals[loop], sizeof own);
            for (Py_ssize_t i = start + loop * 2 * FLOATS; i < end; i += WIDTH)
                for (int k = 0; k < 2; k++) {
                    NAMED(Floats) values;
                    NAMED(floats_at)(x, minus, i + k * FLOATS, &values);
                    NAMED(add_floats)(own + 2 * k, &values);
                }
            memcpy(totals[loop], own, sizeof own);
        }
        NAMED(float_extremes)(x, minus, start, end, out);
    }
    for (int loop = 0; loop < LOOPS; loop++)
        NAMED(finish_totals)(out, totals[loop], 4);
    for (Py_ssize_t i = whole; i < n; i++)
        finish_rest(out, minus ? x[i] - minus[i] : x[i]);
}

TARGET static void NAMED(sum_doubles)(const double *x, const double *minus, Py_ssize_t n, double *out)
{
    enum { WIDTH = LINE / sizeof(double), LENGTH = BLOCK / sizeof(double) };
    NAMED(Totals) totals[PER_LINE];
    memset(totals, 0, sizeof totals);
    Py_ssize_t whole = n - n % WIDTH;
    for (Py_ssize_t start = 0; start < whole; start += LENGTH) {
        Py_ssize_t end = whole - start < LENGTH ? whole : start + LENGTH;
        for (Py_ssize_t i = start; i < end; i += WIDTH)
            for (int k = 0; k < PER_LINE; k++) {
                NAMED(Doubles) values;
                NAMED(doubles_at)(x, minus, i + k * DOUBLES, &values);
                NAMED(add)(&totals[k], &values);
            }
        NAMED(double_extremes)(x, minus, start, end, out);
    }
    NAMED(finish_totals)(out, totals, PER_LINE);
    for (Py_ssize_t i = whole; i < n; i++)
        finish_rest(out, minus ? x[i] - minus[i] : x[i]);
}

#undef FLOATS
#undef DOUBLES
#undef PER_LINE
#undef CHOOSE
#undef DEFINE_AT
#undef DEFINE_EXTREMES
