"""Small changes of bytes and of JSON documents, each drawn by a random generator."""

import json

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
VALUES = (True, None, "best", [], {}, 0, 1e30, -1, 10**400, float("nan"), float("inf"), "\x1b[31m\n", {"": []})


def place(content, random, header):
    """Return an offset: half of the time in the header, where few bytes decide much."""
    if header and random.random() < 0.5:
        start, stop = random.choice(header)
        return min(random.randrange(start, max(stop, start + 1)), max(len(content) - 1, 0))
    return random.randrange(max(len(content), 1))


def length(random):
    """Return the length of a block; short ones are the most frequent."""
    return random.choice((1, 1, 2, 4, 8, 16, 64, 512, 4096))


def flip_bits(content, random, header, other):
    """Flip one to four bits."""
    content = bytearray(content)
    for _ in range(random.randint(1, 4) if content else 0):
        content[place(content, random, header)] ^= 1 << random.randrange(8)
    return bytes(content)


def overwrite(content, random, header, other):
    """Overwrite a block by random bytes."""
    at, count = place(content, random, header), length(random)
    return (content[:at] + random.randbytes(count) + content[at + count :])[: len(content)]


def cut(content, random, header, other):
    """Cut the end off."""
    if random.random() < 0.5:
        return content[: max(0, len(content) - length(random))]
    return content[: place(content, random, header)]


def delete(content, random, header, other):
    """Delete a block."""
    at = place(content, random, header)
    return content[:at] + content[at + length(random) :]


def duplicate(content, random, header, other):
    """Write a block twice."""
    at, count = place(content, random, header), length(random)
    return content[: at + count] + content[at:]


def insert(content, random, header, other):
    """Insert random bytes or zeros."""
    at, count = place(content, random, header), length(random)
    return content[:at] + (random.randbytes(count) if random.random() < 0.5 else bytes(count)) + content[at:]


def set_number(content, random, header, other):
    """Write an extreme or a small whole number over one, two or four bytes, where a length or a size may be."""
    at, size, order = place(content, random, header), random.choice((1, 2, 4)), random.choice(("little", "big"))
    number = random.choice(EXTREMES) if random.random() < 0.5 else random.randrange(300)
    number = (number % 256**size).to_bytes(size, order)
    return (content[:at] + number + content[at + size :])[: len(content)]


def splice(content, random, header, other):
    """Continue with the rest of another file of any format."""
    at = place(content, random, header)
    return content[:at] + other[random.choice((at, random.randrange(len(other)))) :]


MUTATIONS = (flip_bits, overwrite, cut, delete, duplicate, insert, set_number, splice)


def mutate(content, random, header=(), other=b"\0"):
    """Apply one to three mutations to bytes.

    Args:
        content: bytes of a good file.
        random: `random.Random`, which alone decides.
        header: [(start, stop)] of the parts that say what the rest is.
        other: bytes of another file.

    Returns:
        the bytes, and the names of the mutations.
    """
    chosen = [random.choice(MUTATIONS) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    for mutation in chosen:
        content = mutation(content, random, header, other)
    return content, " ".join(mutation.__name__ for mutation in chosen)


def fields(value, path=()):
    """Yield the path of every field and list item of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from fields(inner, (*path, name))


def mutate_document(document, random):
    """Set a field of a JSON document to a value of any type, delete it, or nest it deeply.

    Returns:
        the document's text, and what was changed.
    """
    document = json.loads(json.dumps(document))
    *path, name = random.choice(list(fields(document)))
    inner = document
    for step in path:
        inner = inner[step]
    where = ".".join(map(str, [*path, name]))
    kind = random.random()
    if kind < 0.1:
        del inner[name]
        return json.dumps(document), f"without {where}"
    if kind < 0.15:
        inner[name] = "NESTED"
        deep = random.choice(("[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000))
        return json.dumps(document).replace('"NESTED"', deep), f"nested {where}"
    if kind < 0.3 and isinstance(inner[name], (int, float)):
        inner[name] += random.choice((1, -1, 0.5))
    else:
        inner[name] = random.choice(VALUES)
    return json.dumps(document), f"{where} = {str(inner[name])[:20]!r}"
