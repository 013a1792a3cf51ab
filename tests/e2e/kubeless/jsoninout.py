def handler(event, context):
    event['data']['seen'] = True
    return {"in": event['data'], "function": context['function-name'], "timeout": context['timeout']}
