"""Sends MARK to TARGET in one frame over an AF_XDP socket, beneath the queueing discipline: xdp.py TARGET MARK INTERFACE.

Prints `sent`, or `errno N`. Layouts and numbers: include/uapi/linux/if_xdp.h.
"""
import ctypes, mmap, os, socket, struct, sys, time

target, mark, interface = sys.argv[1], sys.argv[2].encode(), sys.argv[3]
SOL_XDP, MMAP_OFFSETS, RX_RING, TX_RING, UMEM_REG, FILL, COMPLETION = 283, 1, 2, 3, 4, 5, 6
COPY, SIZE, ENTRIES = 1 << 1, 4096, 64
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "call")
    return result


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def frame():
    udp = struct.pack("!HHHH", 40000, 80, 8 + len(mark), 0) + mark
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0,
                     socket.inet_aton("10.200.0.1"), socket.inet_aton(target))
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x08\0" + ip + udp


def send():
    s = socket.socket(44, socket.SOCK_RAW, 0)
    memory = mmap.mmap(-1, SIZE * ENTRIES)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    s.setsockopt(SOL_XDP, UMEM_REG, struct.pack("=QQIIII", at, SIZE * ENTRIES, SIZE, 0, 0, 0))
    for ring in FILL, COMPLETION, TX_RING:
        s.setsockopt(SOL_XDP, ring, struct.pack("=I", ENTRIES))
    offsets = struct.unpack("=16Q", s.getsockopt(SOL_XDP, MMAP_OFFSETS, 128))
    producer, _, descriptors = offsets[4:7]
    ring = mmap.mmap(s.fileno(), descriptors + ENTRIES * 16, offset=0x80000000)
    checked(libc.bind(s.fileno(), struct.pack("=HHIII", 44, COPY, socket.if_nametoindex(interface), 0, 0), 16))
    data = frame()
    memory[:len(data)] = data
    struct.pack_into("=QII", ring, descriptors, 0, len(data), 0)
    struct.pack_into("=I", ring, producer, 1)
    checked(libc.sendto(s.fileno(), None, 0, 0x40, None, 0))
    time.sleep(0.05)


try:
    send()
    print("sent")
except OSError as error:
    print("errno", error.errno)
