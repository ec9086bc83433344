/* The sums behind the statistics of tensors, in one pass over their elements.

   NumPy needs a pass for each of them. Elements are taken in vectors of 64 bytes, whatever the
   processor's own are, and added up by position in the vector; with no fused multiply-add (see
   the build settings) the same elements give the same bits on every processor. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <string.h>

/* Where the loader can choose, wider instructions for processors that have them. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef FOR_EACH_PROCESSOR
#define FOR_EACH_PROCESSOR
#endif

typedef float Floats __attribute__((vector_size(64)));
typedef float HalfFloats __attribute__((vector_size(32)));
typedef int FloatMask __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));
typedef long long DoubleMask __attribute__((vector_size(64)));

enum { SUM, SQUARES, ABSOLUTE, LOW, HIGH, ZEROS, COUNT };

#define CHOOSE(type, mask, where, yes, no) ((type)(((mask)(yes) & (where)) | ((mask)(no) & ~(where))))
#define MAGNITUDE 0x7fffffffffffffffLL /* all bits of a double but its sign */

typedef struct {
    Doubles sum, squares, absolute;
} Totals;

static inline __attribute__((always_inline)) void add(Totals *totals, Doubles values)
{
    totals->sum += values;
    totals->squares += values * values;
    totals->absolute += (Doubles)((DoubleMask)values & MAGNITUDE);
}

static void finish(double *out, double low, double high, double zeros)
{
    out[LOW] = low < out[LOW] ? low : out[LOW];
    out[HIGH] = high > out[HIGH] ? high : out[HIGH];
    out[ZEROS] += zeros;
}

static void finish_totals(double *out, const Totals *totals)
{
    for (int k = 0; k < 8; k++) {
        out[SUM] += totals->sum[k];
        out[SQUARES] += totals->squares[k];
        out[ABSOLUTE] += totals->absolute[k];
    }
}

/* The elements that fill no vector. */
static void finish_rest(double *out, double value)
{
    out[SUM] += value;
    out[SQUARES] += value * value;
    out[ABSOLUTE] += fabs(value);
    finish(out, value, value, value == 0);
}

FOR_EACH_PROCESSOR
static void sum_floats(const float *x, const float *minus, Py_ssize_t n, double *out)
{
    Totals even = {0}, odd = {0};
    Floats low = (Floats){0} + INFINITY, high = (Floats){0} - INFINITY;
    Py_ssize_t i = 0;
    while (i + 16 <= n) {
        FloatMask zeros = {0}; /* counted in parts that no integer overflows */
        Py_ssize_t end = n - i < 1 << 30 ? n : i + (1 << 30);
        for (; i + 16 <= end; i += 16) {
            Floats values, others;
            memcpy(&values, x + i, sizeof values);
            if (minus) {
                memcpy(&others, minus + i, sizeof others);
                values -= others;
            }
            zeros -= values == 0;
            low = CHOOSE(Floats, FloatMask, values < low, values, low);
            high = CHOOSE(Floats, FloatMask, values > high, values, high);
            HalfFloats halves[2];
            memcpy(halves, &values, sizeof halves);
            add(&even, __builtin_convertvector(halves[0], Doubles));
            add(&odd, __builtin_convertvector(halves[1], Doubles));
        }
        for (int k = 0; k < 16; k++)
            out[ZEROS] += zeros[k];
    }
    for (int k = 0; k < 16; k++)
        finish(out, low[k], high[k], 0);
    finish_totals(out, &even);
    finish_totals(out, &odd);
    for (; i < n; i++)
        finish_rest(out, minus ? x[i] - minus[i] : x[i]);
}

FOR_EACH_PROCESSOR
static void sum_doubles(const double *x, const double *minus, Py_ssize_t n, double *out)
{
    Totals totals = {0};
    Doubles low = (Doubles){0} + INFINITY, high = (Doubles){0} - INFINITY;
    DoubleMask zeros = {0};
    Py_ssize_t i = 0;
    for (; i + 8 <= n; i += 8) {
        Doubles values, others;
        memcpy(&values, x + i, sizeof values);
        if (minus) {
            memcpy(&others, minus + i, sizeof others);
            values -= others;
        }
        zeros -= values == 0;
        low = CHOOSE(Doubles, DoubleMask, values < low, values, low);
        high = CHOOSE(Doubles, DoubleMask, values > high, values, high);
        add(&totals, values);
    }
    for (int k = 0; k < 8; k++)
        finish(out, low[k], high[k], (double)zeros[k]);
    finish_totals(out, &totals);
    for (; i < n; i++)
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
    if (!is_alike || element_type(&out) != 'd' ||
        out.len != height * COUNT * (Py_ssize_t)sizeof(double)) {
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
