from bs4 import BeautifulSoup


def foo(event, context):
    soup = BeautifulSoup(event['data'], "html.parser")
    return soup.title.string
