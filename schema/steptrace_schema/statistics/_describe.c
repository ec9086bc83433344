/* The statistics of the rows of a tensor: sums and what follows from them, and percentiles.

   NumPy needs a pass for each of them, and several calls for each tensor. Elements are taken 64 bytes at
   a time, whatever the processor's vectors are, and added up by their position in these; with no fused
   multiply-add (see the build settings) the same elements give the same bits on every processor. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <string.h>

#include "_select.h"

enum { SUM, SQUARES, ABSOLUTE, LOW, HIGH, ZEROS, SUMS };
enum { MEAN, STD, MIN, MAX, L1, L2, ZERO, NANS, INFS, MOMENTS };

#define MAGNITUDE 0x7fffffffffffffffLL /* all bits of a double but its sign */
#define LINE 64                        /* bytes */
#define BLOCK 8192                     /* bytes that stay in the nearest cache from loop to loop */
#define CANCELLED 1e-3 /* of the sum of squares: less than that, and too many digits are lost */
#define MOST_QUANTILES 16

static inline void finish(double *out, double low, double high, double zeros)
{
    out[LOW] = low < out[LOW] ? low : out[LOW];
    out[HIGH] = high > out[HIGH] ? high : out[HIGH];
    out[ZEROS] += zeros;
}

/* The elements that fill no line. */
static inline void finish_rest(double *out, double value)
{
    out[SUM] += value;
    out[SQUARES] += value * value;
    out[ABSOLUTE] += fabs(value);
    finish(out, value, value, value == 0);
}

typedef void SumFloats(const float *x, const float *minus, Py_ssize_t n, double *out);
typedef void SumDoubles(const double *x, const double *minus, Py_ssize_t n, double *out);

/* Vectors of 16 bytes every processor has. Compilers take wider ones apart, element by element, where
   there are none, which takes ten times as long, so they are for those that say that they have them. */
#define VECTOR 16
#define NAMED(name) name##_16
#define TARGET
#include "_sums_kernel.h"
#undef VECTOR
#undef NAMED
#undef TARGET

#ifdef __x86_64__
#define VECTOR 32
#define NAMED(name) name##_32
#define TARGET __attribute__((target("avx2")))
#include "_sums_kernel.h"
#define HAS_WIDE() __builtin_cpu_supports("avx2")
#define WIDE(name) name##_32
#else
#define HAS_WIDE() 0
#define WIDE(name) name##_16
#endif

static void begin_sums(double *sums)
{
    for (int k = 0; k < SUMS; k++)
        sums[k] = k == LOW ? INFINITY : k == HIGH ? -INFINITY : 0;
}

/* NaN and infinite elements, and the squared deviations from a mean that is itself rounded: the
   corrected two-pass sum. Summed by their position in eight, for the processor's vectors. */
#define DEFINE_AGAIN(element, count_bad, squared_deviations)                                       \
    static void count_bad(const element *x, const element *minus, Py_ssize_t n, double *out)       \
    {                                                                                              \
        for (Py_ssize_t i = 0; i < n; i++) {                                                       \
            const element value = minus ? x[i] - minus[i] : x[i];                                  \
            out[NANS] += isnan(value) != 0;                                                        \
            out[INFS] += isinf(value) != 0;                                                        \
        }                                                                                          \
    }                                                                                              \
    static double squared_deviations(const element *x, const element *minus, Py_ssize_t n,         \
                                     double mean)                                                  \
    {                                                                                              \
        double squares[8] = {0}, rests[8] = {0}, square = 0, rest = 0;                             \
        for (Py_ssize_t i = 0; i < n; i += 8)                                                      \
            for (int k = 0; k < 8 && i + k < n; k++) {                                             \
                const element value = minus ? x[i + k] - minus[i + k] : x[i + k];                  \
                const double deviation = (double)value - mean;                                     \
                squares[k] += deviation * deviation;                                               \
                rests[k] += deviation;                                                             \
            }                                                                                      \
        for (int k = 0; k < 8; k++) {                                                              \
            square += squares[k];                                                                  \
            rest += rests[k];                                                                      \
        }                                                                                          \
        square -= rest * rest / (double)n;                                                         \
        return square < 0 ? 0 : square;                                                            \
    }

DEFINE_AGAIN(float, count_bad_floats, float_deviations)
DEFINE_AGAIN(double, count_bad_doubles, double_deviations)

/* The moments that follow from the sums of a row, but for the squared deviations, which are returned. */
static double begin_moments(const double *sums, Py_ssize_t n, double *out)
{
    out[MEAN] = sums[SUM] / (double)n;
    out[MIN] = sums[LOW];
    out[MAX] = sums[HIGH];
    out[L1] = sums[ABSOLUTE];
    out[L2] = sqrt(sums[SQUARES]);
    out[ZERO] = sums[ZEROS];
    out[NANS] = out[INFS] = 0;
    return sums[SQUARES] - sums[SUM] * out[MEAN];
}

#define DEFINE_MOMENTS(name, element, Sum, count_bad, squared_deviations)                          \
    static void name(const element *x, const element *minus, Py_ssize_t n, Sum *sum, double *out)  \
    {                                                                                              \
        double sums[SUMS];                                                                         \
        begin_sums(sums);                                                                          \
        sum(x, minus, n, sums);                                                                    \
        double deviations = begin_moments(sums, n, out);                                           \
        if (!isfinite(sums[SUM]))                                                                  \
            count_bad(x, minus, n, out);                                                           \
        if (out[NANS] > 0)                                                                         \
            out[MIN] = out[MAX] = NAN;                                                             \
        if (!(deviations > CANCELLED * sums[SQUARES])) /* also where NaN */                        \
            deviations = squared_deviations(x, minus, n, out[MEAN]);                               \
        out[STD] = sqrt(deviations / (double)n);                                                   \
    }

DEFINE_MOMENTS(float_moments, float, SumFloats, count_bad_floats, float_deviations)
DEFINE_MOMENTS(double_moments, double, SumDoubles, count_bad_doubles, double_deviations)

/* Between which elements of a sorted row percentiles are, by NumPy's definition. */
typedef struct {
    Py_ssize_t stride, size, ranks[MOST_RANKS];
    int count, last, quantiles, below[MOST_QUANTILES], above[MOST_QUANTILES];
    double weight[MOST_QUANTILES];
} Percentiles;

/* Return the place of a rank that is not below those before, which is added where it is not there. */
static int place_of(Percentiles *wanted, Py_ssize_t rank)
{
    if (!wanted->count || wanted->ranks[wanted->count - 1] < rank)
        wanted->ranks[wanted->count++] = rank;
    int place = wanted->count - 1;
    while (wanted->ranks[place] > rank)
        place--;
    return place;
}

/* Return 0 where they are no ascending numbers from 0 to 1. */
static int plan_percentiles(Percentiles *wanted, const Py_buffer *quantiles, Py_ssize_t n)
{
    double before = 0;
    wanted->size = (n - 1) / wanted->stride + 1;
    wanted->count = 0;
    wanted->quantiles = (int)quantiles->shape[0];
    for (int i = 0; i < wanted->quantiles; i++) {
        const double quantile = ((const double *)quantiles->buf)[i];
        if (!(quantile >= before && quantile <= 1))
            return 0;
        before = quantile;
        const double position = quantile * (double)(wanted->size - 1);
        const Py_ssize_t below = (Py_ssize_t)position;
        wanted->below[i] = place_of(wanted, below);
        wanted->above[i] = place_of(wanted, below + 1 < wanted->size ? below + 1 : below);
        wanted->weight[i] = position - (double)below;
    }
    wanted->last = place_of(wanted, wanted->size - 1); /* where NaN would be */
    return 1;
}

/* Counted from the nearer neighbour, so that the result never passes the farther one. */
static void interpolate(const Percentiles *wanted, const double *found, double *out)
{
    for (int i = 0; i < wanted->quantiles; i++) {
        const double low = found[wanted->below[i]], high = found[wanted->above[i]];
        const double weight = wanted->weight[i], step = high - low;
        out[i] = weight < 0.5 ? low + step * weight : high - step * (1 - weight);
        if (isnan(found[wanted->last]))
            out[i] = NAN;
    }
}

/* 'f' or 'd' for elements of this processor's byte order, 0 for others. */
static char element_type(const Py_buffer *buffer)
{
    const char *format = buffer->format;
    if (*format == '=' || *format == (PY_LITTLE_ENDIAN ? '<' : '>'))
        format++;
    return (*format == 'f' || *format == 'd') && format[1] == 0 ? *format : 0;
}

/* What a function of this module is called with: rows, what is subtracted, and the result. */
typedef struct {
    Py_buffer rows, minus, out;
    char type;
    SumFloats *sum_floats;
    SumDoubles *sum_doubles;
} Rows;

static void release(Rows *given)
{
    PyBuffer_Release(&given->rows);
    PyBuffer_Release(&given->minus);
    PyBuffer_Release(&given->out);
}

/* Return 0, and raise, where they are not rows of a type, and a result of `width` numbers for each. */
static int take(Rows *given, PyObject *values, PyObject *minus, PyObject *result, Py_ssize_t width,
                int may_be_wide)
{
    const int plain = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS;
    memset(given, 0, sizeof *given);
    if (PyObject_GetBuffer(values, &given->rows, plain) < 0 ||
        (minus != Py_None && PyObject_GetBuffer(minus, &given->minus, plain) < 0) ||
        PyObject_GetBuffer(result, &given->out, plain | PyBUF_WRITABLE) < 0) {
        release(given);
        return 0;
    }
    const Py_buffer *rows = &given->rows, *others = &given->minus, *out = &given->out;
    given->type = element_type(rows);
    const int is_wide = may_be_wide && HAS_WIDE();
    given->sum_floats = is_wide ? WIDE(sum_floats) : sum_floats_16;
    given->sum_doubles = is_wide ? WIDE(sum_doubles) : sum_doubles_16;
    if (rows->ndim != 2 || !given->type) {
        PyErr_SetString(PyExc_TypeError, "rows must have two dimensions, of float32 or float64");
    } else if ((others->obj &&
                (others->ndim != 2 || element_type(others) != given->type ||
                 others->shape[0] != rows->shape[0] || others->shape[1] != rows->shape[1])) ||
               element_type(out) != 'd' || out->ndim != 2 || out->shape[0] != rows->shape[0] ||
               out->shape[1] != width) {
        PyErr_SetString(PyExc_ValueError, "rows, what is subtracted and the result do not fit");
    } else {
        return 1;
    }
    release(given);
    return 0;
}

static const char *row_at(const Py_buffer *rows, Py_ssize_t row)
{
    return rows->obj ? (const char *)rows->buf + row * rows->shape[1] * rows->itemsize : NULL;
}

static PyObject *row_sums(PyObject *module, PyObject *args)
{
    PyObject *values, *minus, *result;
    Rows given;
    int may_be_wide = 1;
    if (!PyArg_ParseTuple(args, "OOO|p", &values, &minus, &result, &may_be_wide) ||
        !take(&given, values, minus, result, SUMS, may_be_wide))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < given.rows.shape[0]; row++) {
        double *sums = (double *)given.out.buf + row * SUMS;
        const char *x = row_at(&given.rows, row), *y = row_at(&given.minus, row);
        begin_sums(sums);
        if (given.type == 'f')
            given.sum_floats((const float *)x, (const float *)y, given.rows.shape[1], sums);
        else
            given.sum_doubles((const double *)x, (const double *)y, given.rows.shape[1], sums);
    }
    Py_END_ALLOW_THREADS
    release(&given);
    Py_RETURN_NONE;
}

/* Moments and percentiles of a row, one after the other, while it is in the cache. */
static void describe_row(const Rows *given, const Percentiles *wanted, Py_ssize_t row, double *out,
                         Counts *counts)
{
    const Py_ssize_t n = given->rows.shape[1], size = wanted->size, stride = wanted->stride;
    const char *x = row_at(&given->rows, row), *y = row_at(&given->minus, row);
    const Py_ssize_t *ranks = wanted->ranks;
    const int count = wanted->count;
    double found[MOST_RANKS];
    if (given->type == 'f') {
        const float *own = (const float *)x, *minus = (const float *)y;
        float_moments(own, minus, n, given->sum_floats, out);
        ordered_floats(own, minus, size, stride, ranks, count, found, counts);
    } else {
        const double *own = (const double *)x, *minus = (const double *)y;
        double_moments(own, minus, n, given->sum_doubles, out);
        ordered_doubles(own, minus, size, stride, ranks, count, found, counts);
    }
    interpolate(wanted, found, out + MOMENTS);
}

static PyObject *describe_rows(PyObject *module, PyObject *args)
{
    PyObject *values, *minus, *positions, *result;
    Py_buffer quantiles;
    Percentiles wanted;
    Rows given;
    if (!PyArg_ParseTuple(args, "OOnOO", &values, &minus, &wanted.stride, &positions, &result) ||
        PyObject_GetBuffer(positions, &quantiles, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    const int are_numbers = element_type(&quantiles) == 'd' && quantiles.ndim == 1 &&
        quantiles.shape[0] <= MOST_QUANTILES && wanted.stride > 0;
    const Py_ssize_t width = MOMENTS + (are_numbers ? quantiles.shape[0] : 0);
    if (!take(&given, values, minus, result, width, 1)) {
        PyBuffer_Release(&quantiles);
        return NULL;
    }
    const Py_ssize_t n = given.rows.shape[1];
    Counts *counts = NULL;
    if (are_numbers && n > 0 && plan_percentiles(&wanted, &quantiles, n) &&
        (uint64_t)wanted.size <= UINT32_MAX) {
        counts =
            PyMem_RawMalloc(sizeof *counts + (size_t)(2 * given.rows.itemsize * wanted.size));
        if (counts == NULL)
            PyErr_NoMemory();
    } else {
        PyErr_SetString(PyExc_ValueError, "rows, their percentiles and the result do not fit");
    }
    PyBuffer_Release(&quantiles);
    if (counts != NULL) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t row = 0; row < given.rows.shape[0]; row++)
            describe_row(&given, &wanted, row, (double *)given.out.buf + row * width, counts);
        Py_END_ALLOW_THREADS
        PyMem_RawFree(counts);
    }
    release(&given);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"row_sums", row_sums, METH_VARARGS,
     "row_sums(values, minus, out, wide=True, /)\n--\n\n"
     "Put sum, sum of squares, sum of absolute values, extremes and zeros of each row into `out`, by\n"
     "vectors of 32 bytes where the processor has them, or of 16: the bits are the same."},
    {"describe_rows", describe_rows, METH_VARARGS,
     "describe_rows(values, minus, stride, quantiles, out, /)\n--\n\n"
     "Put mean, std, min, max, l1, l2, zeros, nan and inf of each row into `out`, and then the\n"
     "quantiles, which ascend, of every `stride`-th of its elements."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_describe", "Statistics of rows.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__describe(void)
{
    return PyModuleDef_Init(&module);
}
