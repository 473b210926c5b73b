"""What a file that is executed names to be executed in its place, or to be loaded first: as the kernel reads it.

Pure. Nothing here opens a file.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[int, int], bytes]  # at an offset, so many bytes; fewer at the end

FIRST_LINE = 256  # BINPRM_BUF_SIZE (linux/binfmts.h)
_PATH_MAX = 4096
_PT_INTERP = 3
# Of each class (EI_CLASS): where e_phoff, e_phentsize and e_phnum lie; and p_offset and p_filesz (elf(5)).
_WORD = {1: "I", 2: "Q"}
_HEADER = {1: (28, 42), 2: (32, 54)}
_SEGMENT = {1: (4, 16), 2: (8, 32)}
_SEGMENT_BYTES = {1: 32, 2: 56}
_SEGMENTS_BYTES_MAX = 65536  # load_elf_phdrs of fs/binfmt_elf.c


def of_script(head: bytes) -> tuple[bytes, bytes] | None:
    """The interpreter of a script and its argument (fs/binfmt_script.c); None: it is none. b"" is ENOEXEC.

    head: the first FIRST_LINE bytes.
    """
    if not head.startswith(b"#!"):
        return None
    line, newline, _ = head[2:].partition(b"\n")
    line = line.partition(b"\0")[0].strip(b" \t") if newline else line.partition(b"\0")[0].lstrip(b" \t")
    cut = next((at for at, letter in enumerate(line) if letter in b" \t"), -1)
    interpreter = line if cut < 0 else line[:cut]
    if not newline and cut < 0 and len(head) == FIRST_LINE:
        return b"", b""  # it may be longer
    return interpreter, b"" if cut < 0 else line[cut:].strip(b" \t")


def of_program(read: Read) -> bytes:
    """The loader that an ELF file asks for (PT_INTERP); b"": none, or the kernel will find that it is no program."""
    try:
        return _loader(read)
    except struct.error:  # it ends too early
        return b""


def _loader(read: Read) -> bytes:
    head = read(0, 64)
    kind = head[4] if len(head) > 4 else 0
    if not head.startswith(b"\x7fELF") or kind not in _WORD:
        return b""
    word, (at, counts) = _WORD[kind], _HEADER[kind]
    (table,) = struct.unpack_from(f"={word}", head, at)
    size, count = struct.unpack_from("=HH", head, counts)
    if size != _SEGMENT_BYTES[kind] or not 0 < size * count <= _SEGMENTS_BYTES_MAX or table >> 63:
        return b""
    segments = read(table, size * count)
    offset_at, length_at = _SEGMENT[kind]
    for start in range(0, len(segments) - size + 1, size):
        if struct.unpack_from("=I", segments, start)[0] != _PT_INTERP:
            continue
        (offset,) = struct.unpack_from(f"={word}", segments, start + offset_at)
        (length,) = struct.unpack_from(f"={word}", segments, start + length_at)
        if not 2 <= length <= _PATH_MAX or offset >> 63:
            return b""
        name = read(offset, length)
        return name.partition(b"\0")[0] if name.endswith(b"\0") and len(name) == length else b""
    return b""
