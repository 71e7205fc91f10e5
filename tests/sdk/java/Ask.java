// The HTTP client of a stock JDK, which offers to go on in HTTP/2 (Upgrade: h2c), embeds twice and streams a chat.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Ask {
    static HttpRequest request(String url, String key, String body) {
        return HttpRequest.newBuilder(URI.create(url))
            .header("Authorization", "Bearer " + key)
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
    }

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        String key = arguments[1];
        HttpClient client = HttpClient.newHttpClient();
        String texts = "{\"model\": \"fake/deterministic\", \"input\": [\"a cat\", \"zwei H\u00fcte\"]}";
        for (int time = 0; time < 2; time++) {
            HttpResponse<String> answer =
                client.send(request(url + "/v1/embeddings", key, texts), HttpResponse.BodyHandlers.ofString());
            int vectors = answer.body().split("\"embedding\":").length - 1;
            System.out.println(answer.statusCode() + " " + answer.version() + " " + vectors);
        }
        String chat = "{\"model\": \"openai/gpt-4o-mini\", \"stream\": true, "
            + "\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}";
        HttpResponse<java.util.stream.Stream<String>> stream =
            client.send(request(url + "/v1/chat/completions", key, chat), HttpResponse.BodyHandlers.ofLines());
        System.out.println(
            stream.statusCode() + " " + stream.version() + " " + stream.headers().firstValue("content-type").orElse(""));
        stream.body().filter(line -> line.startsWith("data:")).forEach(System.out::println);
    }
}
