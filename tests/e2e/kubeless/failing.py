def handler(event, context):
    raise KeyError("nothing of that name")
