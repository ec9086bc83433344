/* Copying an array into another of its shape where neither need be contiguous.

   NumPy calls a function for each element, or for each run of the last axis at best. Here runs of a
   few common lengths are copied by an instruction or two, and floats whose axes change places in
   squares of 16. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* An axis: its extent, and the bytes from one index to the next in the target and in the source. */
typedef struct {
    Py_ssize_t extent, to, from;
} Axis;

typedef uint32_t Four __attribute__((vector_size(16)));

/* Elements of two vectors, by their numbers in both. */
#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (Four){__VA_ARGS__})
#endif

#define COPY(size)                                                                                 \
    for (Py_ssize_t i = 0; i < outer.extent; i++)                                                  \
        for (Py_ssize_t k = 0; k < inner.extent; k++)                                              \
            memcpy(target + i * outer.to + k * inner.to,                                           \
                   source + i * outer.from + k * inner.from, size)

static void copy_plane(Axis outer, Axis inner, char *target, const char *source, size_t run)
{
    switch (run) {
    case 1: COPY(1); break;
    case 2: COPY(2); break;
    case 4: COPY(4); break;
    case 8: COPY(8); break;
    case 16: COPY(16); break;
    case 32: COPY(32); break;
    case 64: COPY(64); break;
    default: COPY(run);
    }
}

/* Elements of 4 bytes that lie beside each other along `rows` in the target and along `columns` in
   the source: squares of 16 of them are turned, so that neither is touched element by element. */
static void turn_plane(Axis rows, Axis columns, char *target, const char *source, size_t run)
{
    enum { SIDE = 4 };
    const Py_ssize_t height = rows.extent - rows.extent % SIDE;
    const Py_ssize_t width = columns.extent - columns.extent % SIDE;
    for (Py_ssize_t i = 0; i < height; i += SIDE)
        for (Py_ssize_t k = 0; k < width; k += SIDE) {
            Four in[SIDE], out[SIDE];
            for (int r = 0; r < SIDE; r++)
                memcpy(in + r, source + (i + r) * rows.from + k * columns.from, sizeof *in);
            const Four low01 = PICK(in[0], in[1], 0, 4, 1, 5);
            const Four high01 = PICK(in[0], in[1], 2, 6, 3, 7);
            const Four low23 = PICK(in[2], in[3], 0, 4, 1, 5);
            const Four high23 = PICK(in[2], in[3], 2, 6, 3, 7);
            out[0] = PICK(low01, low23, 0, 1, 4, 5);
            out[1] = PICK(low01, low23, 2, 3, 6, 7);
            out[2] = PICK(high01, high23, 0, 1, 4, 5);
            out[3] = PICK(high01, high23, 2, 3, 6, 7);
            for (int c = 0; c < SIDE; c++)
                memcpy(target + i * rows.to + (k + c) * columns.to, out + c, sizeof *out);
        }
    for (Py_ssize_t i = 0; i < rows.extent; i++)
        for (Py_ssize_t k = i < height ? width : 0; k < columns.extent; k++)
            memcpy(target + i * rows.to + k * columns.to,
                   source + i * rows.from + k * columns.from, run);
}

typedef void Plane(Axis outer, Axis inner, char *target, const char *source, size_t run);

static void copy_axes(const Axis *axes, int count, char *target, const char *source, size_t run,
                      Plane *plane)
{
    if (count == 2) {
        plane(axes[0], axes[1], target, source, run);
        return;
    }
    for (Py_ssize_t i = 0; i < axes->extent; i++)
        copy_axes(axes + 1, count - 1, target + i * axes->to, source + i * axes->from, run, plane);
}

/* Put the axes last along which elements lie beside each other in the target and in the source.
   Return 0 where they are not two, or the elements not of 4 bytes. */
static int put_turned_last(Axis *axes, int count, size_t run)
{
    int rows = -1, columns = -1, rest = 0;
    for (int k = 0; k < count; k++)
        if (axes[k].extent > 1) {
            rows = axes[k].to == 4 ? k : rows;
            columns = axes[k].from == 4 ? k : columns;
        }
    if (run != 4 || rows < 0 || columns < 0 || rows == columns)
        return 0;
    const Axis last[2] = {axes[rows], axes[columns]};
    for (int k = 0; k < count; k++)
        if (k != rows && k != columns)
            axes[rest++] = axes[k];
    memcpy(axes + rest, last, sizeof last);
    return 1;
}

/* The type of the elements, without the mark of this processor's own byte order. */
static const char *element_type(const Py_buffer *buffer)
{
    const char *format = buffer->format;
    return *format == '=' || *format == (PY_LITTLE_ENDIAN ? '<' : '>') ? format + 1 : format;
}

/* Pointers to objects are counted, so their bytes alone must not be copied. */
static int are_alike(const Py_buffer *target, const Py_buffer *source)
{
    const char *type = element_type(target);
    if (target->ndim != source->ndim || target->itemsize != source->itemsize ||
        strcmp(type, element_type(source)) || strchr(type, 'O'))
        return 0;
    for (int k = 0; k < target->ndim; k++)
        if (target->shape[k] != source->shape[k])
            return 0;
    return 1;
}

static void copy_buffer(const Py_buffer *target, const Py_buffer *source)
{
    Axis axes[PyBUF_MAX_NDIM + 2];
    size_t run = (size_t)target->itemsize;
    int rest = target->ndim;
    /* The last axes, as long as both arrays are contiguous there, make one run. */
    while (rest && target->strides[rest - 1] == (Py_ssize_t)run &&
           source->strides[rest - 1] == (Py_ssize_t)run)
        run *= (size_t)target->shape[--rest];
    int count = rest < 2 ? 2 : rest;
    for (int k = 0; k < count - rest; k++)
        axes[k] = (Axis){1, 0, 0};
    for (int k = 0; k < rest; k++)
        axes[count - rest + k] = (Axis){target->shape[k], target->strides[k], source->strides[k]};
    Plane *plane = put_turned_last(axes, count, run) ? turn_plane : copy_plane;
    copy_axes(axes, count, target->buf, source->buf, run, plane);
}

static PyObject *copy_strided(PyObject *module, PyObject *args)
{
    PyObject *to, *from;
    Py_buffer target, source;
    if (!PyArg_ParseTuple(args, "OO", &to, &from))
        return NULL;
    if (PyObject_GetBuffer(to, &target, PyBUF_STRIDED | PyBUF_FORMAT) < 0)
        return NULL;
    if (PyObject_GetBuffer(from, &source, PyBUF_STRIDED_RO | PyBUF_FORMAT) < 0) {
        PyBuffer_Release(&target);
        return NULL;
    }
    if (are_alike(&target, &source)) {
        Py_BEGIN_ALLOW_THREADS
        copy_buffer(&target, &source);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "target and source have not the same shape and type of plain elements");
    }
    PyBuffer_Release(&source);
    PyBuffer_Release(&target);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"copy_strided", copy_strided, METH_VARARGS,
     "copy_strided(target, source)\n--\n\nCopy an array into another that shares no memory with it."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_strided_copy", "Copies of strided arrays.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__strided_copy(void)
{
    return PyModuleDef_Init(&module);
}
