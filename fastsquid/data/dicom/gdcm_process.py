"""Script of a process that decodes JPEG Lossless and JPEG-LS by gdcm, which may abort the process that it runs in.

It is started by its path, so that it imports neither fastsquid nor PyTorch. Its arguments are Python's search path.
It writes the line `ready`. A request on its standard input is a line of JSON and the compressed frame:
{"length": bytes of the frame, "syntax": UID, "rows": ..., "columns": ..., "bits": ...}. The answer is the line `taken`,
then a line with the number of decoded bytes and these bytes, or the line `damaged`. The process ends with its standard
input.

Where the system can fork, a child process answers. If a frame ends it, the line `died` follows, and the next child is
ready in a millisecond. `died` before `taken` is of a child that was killed while it waited for a request.

gdcm decodes what it can of damaged JPEG data and says so on standard error only.
"""

import json
import os
import signal
import sys
import tempfile
import warnings


def main() -> None:
    """Answer requests until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and with it this process's input
    answers = os.fdopen(os.dup(1), "wb")
    with tempfile.TemporaryFile() as file:
        printed = os.dup(file.fileno())
    for stream in (1, 2):  # what gdcm prints is no answer
        os.dup2(printed, stream)
    sys.path[:] = sys.argv[1:]
    warnings.simplefilter("ignore")
    import gdcm  # noqa: F401  (without it, no `ready`)
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder  # pyright: ignore[reportPrivateImportUsage]

    answers.write(b"ready\n")
    answers.flush()
    while hasattr(os, "fork") and (child := os.fork()):
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):  # the standard input has ended
            return
        answers.write(b"died\n")
        answers.flush()
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        frame = sys.stdin.buffer.read(request["length"])
        answers.write(b"taken\n")
        answers.flush()
        os.ftruncate(printed, 0)
        os.lseek(printed, 0, os.SEEK_SET)
        try:
            decoded, _ = get_decoder(request["syntax"]).as_buffer(
                encapsulate([frame]),
                raw=True,
                decoding_plugin="gdcm",
                rows=request["rows"],
                columns=request["columns"],
                samples_per_pixel=1,
                photometric_interpretation="MONOCHROME2",
                bits_allocated=8 if request["bits"] <= 8 else 16,
                bits_stored=request["bits"],
                pixel_representation=0,
                number_of_frames=1,
                pixel_keyword="PixelData",
            )
        except Exception:  # a damaged frame makes gdcm and pydicom raise almost anything
            decoded = None
        os.lseek(printed, 0, os.SEEK_SET)
        if decoded is None or b"Corrupt JPEG data" in os.read(printed, 2**16):
            answers.write(b"damaged\n")
        else:
            answers.write(b"%d\n" % len(decoded))
            answers.write(decoded)
        answers.flush()


if __name__ == "__main__":
    main()
