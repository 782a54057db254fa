REVIEWED: dict[str, tuple[str, str]] = {}
