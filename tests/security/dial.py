"""Dials each ADDRESS at PORT in an odd WAY, and asks for TARGET: dial.py PORT TARGET (WAY ADDRESS)...

Prints for each the status of the answer, or `errno N`.
"""
import ctypes, mmap, os, socket, struct, sys

port, target = int(sys.argv[1]), sys.argv[2]
address = ""
request = ("GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n" % target).encode()
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "call")
    return result


def sockaddr(kind=socket.AF_INET):
    return struct.pack("=HH4s8x", kind, socket.htons(port), socket.inet_aton(address))


def unspec():
    """Connects, lets go by AF_UNSPEC, connects again."""
    s = socket.socket()
    s.connect((address, port))
    checked(libc.connect(s.fileno(), struct.pack("=H14x", 0), 16))
    s.connect((address, port))
    return s


def marked():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, 36, 0x1234)
    s.connect((address, port))
    return s


def fast_open():
    s = socket.socket()
    s.sendto(request, 0x20000000, (address, port))
    return s


def uring(setup=0, flags=0):
    """One IORING_OP_CONNECT. The offsets are those of include/uapi/linux/io_uring.h."""
    s = socket.socket()
    params = ctypes.create_string_buffer(120)
    struct.pack_into("=I", params, 8, setup)
    ring = checked(libc.syscall(425, 8, params))
    p = struct.unpack_from("=10I", params.raw)
    sq, cq = struct.unpack_from("=10I", params.raw, 40), struct.unpack_from("=10I", params.raw, 80)
    size = max(sq[6] + p[0] * 4, cq[5] + p[1] * 16)
    rings, entries = mmap.mmap(ring, size), mmap.mmap(ring, p[0] * 64, offset=0x10000000)
    to = ctypes.create_string_buffer(sockaddr())
    struct.pack_into("=BBHiQQIIQ24x", entries, 0, 16, flags, 0, s.fileno(), 16, ctypes.addressof(to), 0, 0, 7)
    struct.pack_into("=I", rings, sq[6], 0)
    struct.pack_into("=I", rings, sq[1], 1)
    # Submit (or wake the thread that does), and wait for one completion.
    checked(libc.syscall(426, ring, 1, 1, 3 if setup else 1, None, 0))
    result = struct.unpack_from("=i", rings, cq[5] + 8)[0]
    if result < 0:
        raise OSError(-result, "connect")
    return s


def plain(protocol=0):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM, protocol)
    s.connect((address, port))
    return s




WAYS = {
    "plain": plain,
    "mptcp": lambda: plain(262),
    "fast-open": fast_open,
    "unspec": unspec,
    "marked": marked,
    "uring": uring,
    "uring-async": lambda: uring(flags=1 << 4),
    "uring-polled": lambda: uring(setup=2),
}
words = iter(sys.argv[3:])
for way, address in zip(words, words):
    try:
        s = WAYS[way]()
        s.settimeout(5)
        if way != "fast-open":
            s.sendall(request)
        print(s.recv(4096).split(b" ")[1].decode())
    except OSError as error:
        print("errno", error.errno)
