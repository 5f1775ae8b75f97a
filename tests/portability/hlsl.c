// Compiles HLSL with FXC (d3dcompiler) and DXC (dxcompiler), the two compilers that wgpu uses on Windows. Runs on Windows
// and under Wine. One process for all files: starting Wine is slow.
//
//   hlsl LIST     LIST holds lines `fxc cs_5_1 FILE` or `dxc cs_6_0 FILE`
//
// Prints `== ok FILE` or `== FAIL FILE` and below it what the compiler said. The two DLLs lie beside the program as fxc.dll
// and dxc.dll: under its own name Wine would take d3dcompiler_47 for the one that it ships.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

// FXC's ID3DBlob and DXC's IDxcBlob begin alike.
typedef struct Blob Blob;
struct Blob {
    struct {
        void *query;
        void *add_ref;
        ULONG(WINAPI *release)(Blob *);
        const char *(WINAPI *pointer)(Blob *);
        SIZE_T(WINAPI *size)(Blob *);
    } *call;
};

typedef struct DxcResult DxcResult;
struct DxcResult {
    struct {
        void *query;
        void *add_ref;
        ULONG(WINAPI *release)(DxcResult *);
        HRESULT(WINAPI *status)(DxcResult *, HRESULT *);
        HRESULT(WINAPI *result)(DxcResult *, Blob **);
        HRESULT(WINAPI *errors)(DxcResult *, Blob **);
    } *call;
};

typedef struct {
    const void *pointer;
    SIZE_T size;
    UINT encoding;
} DxcBuffer;

// IDxcCompiler3
typedef struct Dxc Dxc;
struct Dxc {
    struct {
        void *query;
        void *add_ref;
        void *release;
        HRESULT(WINAPI *compile)(Dxc *, const DxcBuffer *, const WCHAR **, UINT32, void *, const GUID *, void **);
    } *call;
};

static const GUID CLASS_DXC = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID IID_DXC = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID IID_RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};

typedef HRESULT(WINAPI *FxcCompile)(const void *, SIZE_T, const char *, const void *, void *, const char *,
                                    const char *, UINT, UINT, Blob **, Blob **);
typedef HRESULT(WINAPI *DxcCreate)(const GUID *, const GUID *, void **);

static FxcCompile fxc;
static Dxc *dxc;

static void *function(const char *library, const char *name) {
    HMODULE module = LoadLibraryA(library);
    void *found = module ? (void *)GetProcAddress(module, name) : NULL;
    if (!found) {
        fprintf(stderr, "%s has no %s (error %lu): copy it from the npm package webgpu\n", library, name, GetLastError());
        exit(2);
    }
    return found;
}

static HRESULT with_fxc(const char *profile, const char *text, SIZE_T size, Blob **errors) {
    const UINT strictness = 1 << 11;  // D3DCOMPILE_ENABLE_STRICTNESS, wgpu's only flag
    Blob *code = NULL;
    HRESULT status = fxc(text, size, NULL, NULL, NULL, "main", profile, strictness, 0, &code, errors);
    if (code) code->call->release(code);
    return status;
}

static HRESULT with_dxc(const char *profile, const char *text, SIZE_T size, Blob **errors) {
    WCHAR wide[16];
    MultiByteToWideChar(CP_UTF8, 0, profile, -1, wide, 16);
    const WCHAR *arguments[] = {L"-E", L"main", L"-T", wide, L"-HV", L"2018"};
    const DxcBuffer source = {text, size, CP_UTF8};
    DxcResult *result = NULL;
    HRESULT status = dxc->call->compile(dxc, &source, arguments, 6, NULL, &IID_RESULT, (void **)&result);
    if (FAILED(status)) return status;
    result->call->status(result, &status);
    result->call->errors(result, errors);
    result->call->release(result);
    return status;
}

static char *read_file(const char *path, SIZE_T *size) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    *size = ftell(file);
    rewind(file);
    char *text = calloc(*size + 1, 1);
    *size = fread(text, 1, *size, file);
    fclose(file);
    return text;
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: hlsl LIST\n");
        return 2;
    }
    fxc = (FxcCompile)function("fxc.dll", "D3DCompile");
    DxcCreate create = (DxcCreate)function("dxc.dll", "DxcCreateInstance");
    if (FAILED(create(&CLASS_DXC, &IID_DXC, (void **)&dxc))) {
        fprintf(stderr, "dxc.dll has no IDxcCompiler3: it is too old\n");
        return 2;
    }
    FILE *list = fopen(arguments[1], "r");
    char compiler[8], profile[16], path[1024];
    while (list && fscanf(list, "%7s %15s %1023[^\r\n]", compiler, profile, path) == 3) {
        SIZE_T size;
        char *text = read_file(path, &size);
        Blob *errors = NULL;
        HRESULT status = (strcmp(compiler, "fxc") ? with_dxc : with_fxc)(profile, text, size, &errors);
        printf("== %s %s\n", FAILED(status) ? "FAIL" : "ok", path);
        if (errors) {
            printf("%.*s\n", (int)errors->call->size(errors), errors->call->pointer(errors));
            errors->call->release(errors);
        } else if (FAILED(status)) {
            printf("error %08lx without a message\n", (unsigned long)status);
        }
        fflush(stdout);
        free(text);
    }
    return list ? 0 : 2;
}
