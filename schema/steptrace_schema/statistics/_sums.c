/* The sums behind the statistics of tensors, in one pass over their elements.

   NumPy needs a pass for each of them. Elements are taken 64 bytes at a time, whatever the processor's
   vectors are, and added up by their position in these; with no fused multiply-add (see the build
   settings) the same elements give the same bits on every processor. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <string.h>

/* Vectors of 16 bytes, which every processor has: compilers take wider ones apart, element by element,
   where there are none, which takes ten times as long. */
typedef float Floats __attribute__((vector_size(16)));
typedef float HalfFloats __attribute__((vector_size(8)));
typedef int FloatMask __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(16)));
typedef long long DoubleMask __attribute__((vector_size(16)));

enum { SUM, SQUARES, ABSOLUTE, LOW, HIGH, ZEROS, COUNT };

#define CHOOSE(type, mask, where, yes, no) ((type)(((mask)(yes) & (where)) | ((mask)(no) & ~(where))))
#define MAGNITUDE 0x7fffffffffffffffLL /* all bits of a double but its sign */
#define LINE 64                        /* bytes */
#define BLOCK 8192                     /* bytes that stay in the nearest cache from loop to loop */

typedef struct {
    Doubles sum, squares, absolute;
} Totals;

static inline void add(Totals *totals, Doubles values)
{
    totals->sum += values;
    totals->squares += values * values;
    totals->absolute += (Doubles)((DoubleMask)values & MAGNITUDE);
}

static inline void add_floats(Totals totals[2], Floats values)
{
    HalfFloats halves[2];
    memcpy(halves, &values, sizeof halves);
    add(&totals[0], __builtin_convertvector(halves[0], Doubles));
    add(&totals[1], __builtin_convertvector(halves[1], Doubles));
}

/* Some elements of a row, less those of another one where there is one. */
#define DEFINE_AT(name, Vector, element)                                                           \
    static inline Vector name(const element *x, const element *minus, Py_ssize_t i)                \
    {                                                                                              \
        Vector values, others;                                                                     \
        memcpy(&values, x + i, sizeof values);                                                     \
        if (minus) {                                                                               \
            memcpy(&others, minus + i, sizeof others);                                             \
            values -= others;                                                                      \
        }                                                                                          \
        return values;                                                                             \
    }

DEFINE_AT(floats_at, Floats, float)
DEFINE_AT(doubles_at, Doubles, double)

static void finish(double *out, double low, double high, double zeros)
{
    out[LOW] = low < out[LOW] ? low : out[LOW];
    out[HIGH] = high > out[HIGH] ? high : out[HIGH];
    out[ZEROS] += zeros;
}

static void finish_totals(double *out, const Totals *totals, int count)
{
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 2; k++) {
            out[SUM] += totals[i].sum[k];
            out[SQUARES] += totals[i].squares[k];
            out[ABSOLUTE] += totals[i].absolute[k];
        }
}

/* The elements that fill no line. */
static void finish_rest(double *out, double value)
{
    out[SUM] += value;
    out[SQUARES] += value * value;
    out[ABSOLUTE] += fabs(value);
    finish(out, value, value, value == 0);
}

/* Extremes and zeros of the lines from `start` to `end`. */
#define DEFINE_EXTREMES(name, at, Vector, Mask, element)                                           \
    static void name(const element *x, const element *minus, Py_ssize_t start, Py_ssize_t end,     \
                     double *out)                                                                  \
    {                                                                                              \
        enum { LANES = sizeof(Vector) / sizeof(element) };                                         \
        Vector low[4], high[4];                                                                    \
        Mask zeros = {0};                                                                          \
        for (int k = 0; k < 4; k++) {                                                              \
            low[k] = (Vector){0} + INFINITY;                                                       \
            high[k] = (Vector){0} - INFINITY;                                                      \
        }                                                                                          \
        for (Py_ssize_t i = start; i < end; i += 4 * LANES)                                        \
            for (int k = 0; k < 4; k++) {                                                          \
                Vector values = at(x, minus, i + LANES * k);                                       \
                zeros -= values == 0;                                                              \
                low[k] = CHOOSE(Vector, Mask, values < low[k], values, low[k]);                    \
                high[k] = CHOOSE(Vector, Mask, values > high[k], values, high[k]);                 \
            }                                                                                      \
        for (int lane = 0; lane < LANES; lane++) {                                                 \
            for (int k = 0; k < 4; k++)                                                            \
                finish(out, low[k][lane], high[k][lane], 0);                                       \
            out[ZEROS] += (double)zeros[lane];                                                     \
        }                                                                                          \
    }

DEFINE_EXTREMES(float_extremes, floats_at, Floats, FloatMask, float)
DEFINE_EXTREMES(double_extremes, doubles_at, Doubles, DoubleMask, double)

/* Block by block, in loops for each of which the processor has registers enough. */
static void sum_floats(const float *x, const float *minus, Py_ssize_t n, double *out)
{
    enum { WIDTH = LINE / sizeof(float), HALF = WIDTH / 2, LENGTH = BLOCK / sizeof(float) };
    Totals totals[2][4] = {0};
    Py_ssize_t whole = n - n % WIDTH;
    for (Py_ssize_t start = 0; start < whole; start += LENGTH) {
        Py_ssize_t end = whole - start < LENGTH ? whole : start + LENGTH;
        for (int half = 0; half < 2; half++) {
            Totals own[4];
            memcpy(own, totals[half], sizeof own);
            for (Py_ssize_t i = start + half * HALF; i < end; i += WIDTH) {
                add_floats(own, floats_at(x, minus, i));
                add_floats(own + 2, floats_at(x, minus, i + 4));
            }
            memcpy(totals[half], own, sizeof own);
        }
        float_extremes(x, minus, start, end, out);
    }
    finish_totals(out, totals[0], 4);
    finish_totals(out, totals[1], 4);
    for (Py_ssize_t i = whole; i < n; i++)
        finish_rest(out, minus ? x[i] - minus[i] : x[i]);
}

static void sum_doubles(const double *x, const double *minus, Py_ssize_t n, double *out)
{
    enum { WIDTH = LINE / sizeof(double), LENGTH = BLOCK / sizeof(double) };
    Totals totals[4] = {0};
    Py_ssize_t whole = n - n % WIDTH;
    for (Py_ssize_t start = 0; start < whole; start += LENGTH) {
        Py_ssize_t end = whole - start < LENGTH ? whole : start + LENGTH;
        for (Py_ssize_t i = start; i < end; i += WIDTH)
            for (int k = 0; k < 4; k++)
                add(&totals[k], doubles_at(x, minus, i + 2 * k));
        double_extremes(x, minus, start, end, out);
    }
    finish_totals(out, totals, 4);
    for (Py_ssize_t i = whole; i < n; i++)
        finish_rest(out, minus ? x[i] - minus[i] : x[i]);
}

/* 'f' or 'd' for elements of this processor's byte order, 0 for others. */
static char element_type(const Py_buffer *buffer)
{
    const char *format = buffer->format;
    if (*format == '=' || *format == (PY_LITTLE_ENDIAN ? '<' : '>'))
        format++;
    return (*format == 'f' || *format == 'd') && format[1] == 0 ? *format : 0;
}

static int get_rows(PyObject *object, Py_buffer *rows)
{
    if (PyObject_GetBuffer(object, rows, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    if (rows->ndim == 2 && element_type(rows))
        return 0;
    PyBuffer_Release(rows);
    PyErr_SetString(PyExc_TypeError, "rows must have two dimensions, of float32 or float64");
    return -1;
}

static PyObject *row_sums(PyObject *module, PyObject *args)
{
    PyObject *values, *minus, *result = NULL;
    Py_buffer rows, others = {0}, out;
    if (!PyArg_ParseTuple(args, "OOO", &values, &minus, &result))
        return NULL;
    if (get_rows(values, &rows) < 0)
        return NULL;
    if (minus != Py_None && get_rows(minus, &others) < 0)
        goto no_others;
    if (PyObject_GetBuffer(result, &out, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0)
        goto no_out;
    Py_ssize_t height = rows.shape[0], n = rows.shape[1];
    int is_alike = others.buf == NULL ||
        (others.shape[0] == height && others.shape[1] == n &&
         element_type(&others) == element_type(&rows));
    /* Divided, because a product with a claimed extent may overflow. */
    const Py_ssize_t width = COUNT * (Py_ssize_t)sizeof(double);
    if (!is_alike || element_type(&out) != 'd' || out.len % width || out.len / width != height) {
        PyErr_SetString(PyExc_ValueError, "rows, what is subtracted and the result do not fit");
        goto failed;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < height; row++) {
        double *sums = (double *)out.buf + row * COUNT;
        for (int k = 0; k < COUNT; k++)
            sums[k] = k == LOW ? INFINITY : k == HIGH ? -INFINITY : 0;
        const char *x = (const char *)rows.buf + row * n * rows.itemsize;
        const char *y = others.buf ? (const char *)others.buf + row * n * rows.itemsize : NULL;
        if (element_type(&rows) == 'f')
            sum_floats((const float *)x, (const float *)y, n, sums);
        else
            sum_doubles((const double *)x, (const double *)y, n, sums);
    }
    Py_END_ALLOW_THREADS
failed:
    PyBuffer_Release(&out);
no_out:
    if (others.obj)
        PyBuffer_Release(&others);
no_others:
    PyBuffer_Release(&rows);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"row_sums", row_sums, METH_VARARGS,
     "row_sums(values, minus, out)\n--\n\n"
     "Put sum, sum of squares, sum of absolute values, extremes and zeros of each row into `out`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_sums", "One-pass sums of rows.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__sums(void)
{
    return PyModuleDef_Init(&module);
}
