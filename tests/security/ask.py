"""In front of each script of this suite that asks: what a caller sends, and how it reads the answer."""
import array, ctypes, os, signal, socket, struct, sys, time

IMDS = ("169.254.169.254", 80)
TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"


def head(target=TOKEN, more=""):
    return ("GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n%s\r\n" % (target, more)).encode()


def answer(s):
    """The status of the next answer, which is read to its end; `closed` where there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            piece = s.recv(65536)
        except ConnectionResetError:
            piece = b""
        if not piece:
            return "closed"
        data += piece
    lines, body = data.split(b"\r\n\r\n", 1)
    length = [int(l.split(b":")[1]) for l in lines.split(b"\r\n") if l.lower().startswith(b"content-length")][0]
    while len(body) < length:
        body += s.recv(65536)
    return lines.split(b" ")[1].decode()


def ask(s, target=TOKEN, more=""):
    s.sendall(head(target, more))
    return answer(s)


def connect(to=IMDS, source=None, family=socket.AF_INET):
    """Dials; anew for two seconds where it is refused, as in a network namespace that nobody was seen in."""
    until = time.monotonic() + 2
    while True:
        s = socket.socket(family, socket.SOCK_STREAM)
        s.settimeout(5)
        if source:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(source)
        try:
            s.connect(to)
            return s
        except ConnectionRefusedError:
            s.close()
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def become(uid, gid=2000):
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def move(cgroup):
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write("0")


def say(*words):
    print(*words, flush=True)
