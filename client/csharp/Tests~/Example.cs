using System;
using System.IO;
using System.Reflection;
using System.Text;
using System.Threading.Tasks;

namespace UnityEngine
{
    // As much of Unity as the example needs.

    public class MonoBehaviour
    {
    }

    public static class Debug
    {
        public static void Log(object message)
        {
            Console.WriteLine(message);
        }
    }
}

namespace Gateway.Client.Tests
{
    /// <summary>Plays Unity for the example of the README, which is the sample of the package.</summary>
    internal static class Example
    {
        /// <summary>Runs the example until the standard input ends.</summary>
        public static void Run(string url)
        {
            Console.OutputEncoding = new UTF8Encoding(false);
            var hello = new Hello { url = url };
            // The methods of the console that read asynchronously block all the same.
            var end = Task.Run(() => Console.In.ReadToEnd());
            Call(hello, "Start");
            new Frames().Run(() =>
            {
                Call(hello, "Update");
                return !end.IsCompleted;
            });
            Call(hello, "OnDestroy");
        }

        public static void IsThatOfTheReadme()
        {
            var readme = File.ReadAllText("client/csharp/README.md");
            var sample = File.ReadAllText("client/csharp/Samples~/Hello/Hello.cs");
            Suite.Same("the README has the sample", readme.Contains("```csharp\n" + sample + "```\n"), true);
        }

        private static void Call(Hello hello, string method)
        {
            typeof(Hello).GetMethod(method, BindingFlags.Instance | BindingFlags.NonPublic).Invoke(hello, null);
        }
    }
}
